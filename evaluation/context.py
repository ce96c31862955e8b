"""Input and output of a measure: a fitted pair on a split of its data, and metrics with figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.data import Batch, Dataset, batch_of, first
from flowvae.evaluation.effort import Effort
from flowvae.evaluation.metric import Metric
from flowvae.guides import AmortizedGuide
from flowvae.inference.not_finite import broken_tensor
from flowvae.inference.training_data import on_device
from flowvae.models import VAE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EvaluationContext", "MeasureResult"]

MANY = 5000  # data points for measures of all pairs


@dataclass(frozen=True)
class MeasureResult:
    """The result of a measure.

    Args:
        metrics: the measured numbers.
        figures: functions that draw the result, by name.
    """

    metrics: list[Metric]
    figures: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationContext:
    """A fitted pair on a split of its data.

    Args:
        model: the model.
        guide: its guide.
        data: the data set, with all splits.
        split: name of the split to measure.
        draws: K, draws per data point for the likelihood.
        seed: random seed of the random numbers of all measures.
        protocol: identity of the data and version, repeated in every metric.
        compile: compilation of likelihood and IWAE bound: "capture", "inductor" or "none".
        effort: size of the measures that refine guides or run chains.
        progress: whether to show progress bars.

    Raises:
        FlowvaeError: if a parameter or buffer of the pair is not finite.
    """

    model: VAE
    guide: AmortizedGuide
    data: Dataset
    split: str
    draws: int
    seed: int
    protocol: dict[str, Any]
    compile: str = "capture"
    effort: Effort = field(default_factory=Effort)
    progress: bool = False

    def __post_init__(self) -> None:
        if broken := broken_tensor(model=self.model, guide=self.guide):
            raise FlowvaeError(f"{broken}, so nothing can be measured; restore the checkpoint or train again.")

    def batch(self, most: int | None = None) -> Batch:
        """The first data points of the split, with their conditions, on the model's device."""
        whole = batch_of(self.data, self.model.condition, self.split)
        if most is not None and (most < len(whole) or not isinstance(whole.x, Tensor)):
            whole = whole[torch.arange(min(most, len(whole)))]  # few rows of a source, which are read into memory
        return on_device(whole, next(self.guide.parameters()).device)

    def refuse_condition(self) -> None:
        """Refuse a conditional model, in which every condition has its own prior and codes.

        Raises:
            FlowvaeError: for such a model.
        """
        if self.model.condition is not None:
            raise FlowvaeError("it needs a single prior p(z), but this model is conditional: each c has its own")

    def rows(self, split: str | None = None) -> Tensor:
        """At most 5000 data points of the split, (N, *event), on the model's device, for measures of all pairs.

        Raises:
            FlowvaeError: for a conditional model, whose prior and codes differ between conditions.
        """
        self.refuse_condition()
        x = getattr(self.data, split or self.split)
        return first(x, min(len(x), MANY)).to(next(self.guide.parameters()).device)

    def facts(self, x: Tensor | Batch) -> dict[str, Any]:
        """The protocol of a measure on these data points."""
        return {**self.protocol, "seed": self.seed, "rows": len(x)}

    @property
    def efforts(self) -> dict[str, Any]:
        """Protocol entries of the measures that depend on the effort."""
        return {"effort": self.effort.as_dict()}

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the measures that show a progress bar."""
        return {"seed": self.seed, "progress": self.progress}
