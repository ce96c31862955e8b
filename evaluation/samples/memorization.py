"""Test of data-copying: whether generated data are nearer to the training data than held-out data are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowvae.core.errors import check_int_value
from flowvae.data import Dataset, to_tensor
from flowvae.evaluation.auc import auc
from flowvae.evaluation.context import EvaluationContext, MeasureResult
from flowvae.evaluation.metric import Metric
from flowvae.evaluation.registry import measure
from flowvae.evaluation.samples.neighbours import nearest_neighbours
from flowvae.evaluation.samples.sampling import conditions, equal_sizes, generate, rows

__all__ = ["Memorization", "measure_memorization", "two_sample_z"]


@dataclass(frozen=True)
class Memorization:
    """Distances to the nearest training data point, in principal components of the training data.

    Args:
        samples: generated data, shape (n, *shape).
        generated: distance of each to its nearest training data point, (n,), in units of the data.
        neighbours: index of that data point in train, (n,).
        held_out: the same distance for n data points of the split, (n,).
        of: kind of generated data, "draws" or "means".
        components: number of principal components.
        share: share of the training data's variance that they explain.
        seed: random seed of the generated data and the choice of data.
    """

    samples: Tensor
    generated: Tensor
    neighbours: Tensor
    held_out: Tensor
    of: str
    components: int
    share: float
    seed: int

    @property
    def z(self) -> float:
        """Mann–Whitney z of the distances; below −3, generated data are nearer to train than held-out data are."""
        return two_sample_z(self.generated, self.held_out)

    @property
    def nearer(self) -> tuple[float, float]:
        """P(a generated point is nearer to train than a held-out point), ½ if nothing is copied, with standard error.

        The standard error is DeLong's, which makes no assumption about the two distributions.
        """
        return auc(self.held_out, self.generated)

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """z, and the share of pairs in which the generated point is nearer; names for means end with `_of_means`."""
        settings = {
            "generated": self.of,
            "n": len(self.generated),
            "components": self.components,
            "share_of_variance": self.share,
            "seed": self.seed,
        }
        end = "" if self.of == "draws" else f"_of_{self.of}"
        return [
            Metric(f"memorization_z{end}", self.z, 1.0, "N(0, 1) if nothing is copied", split, protocol | settings),
            Metric(f"nearer_than_held_out{end}", *self.nearer, "share of pairs", split, protocol | settings),
        ]


@torch.no_grad()
def measure_memorization(
    model: Callable[..., Any],
    data: Dataset,
    *,
    split: str = "test",
    of: str = "draws",
    count: int | None = None,
    components: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> Memorization:
    """Run the data-copying test of Meehan et al. over the whole space.

    The null hypothesis is that the distance to train has the same distribution for generated and for held-out data. A
    small distance alone is no evidence, since in dense regions held-out data are close to train too. Means E[x | z]
    lack the noise of the data and are closer to all data, so they look copied even if they are not; use them only to
    inspect pairs. The test is global: copying in one region can be masked by distant samples in another.

    Args:
        model: Pyro model that generates data by `model(size=…)`.
        data: the data set that it was fitted to.
        split: the held-out data, "valid" or "test".
        of: "draws" x ~ p(x | z) or "means" E[x | z].
        count: n of held-out and of generated data; None: all of the split, at most 2000.
        components: number of principal components of train; fewer if the data have fewer columns or rows.
        seed: random seed of the generated data and the choice of data.
        progress: whether to show a progress bar.

    Raises:
        FlowvaeError: for a count above the size of the split, or components below 1.

    References:
        Meehan, Chaudhuri & Dasgupta (2020), "A Non-Parametric Test to Detect Data-Copying in Generative Models".
    """
    check_int_value("components", components)
    count = equal_sizes(data, split, count)
    samples = generate(model, count, of, seed, progress, conditions(model, data, split, count, seed))
    train = to_tensor(data.train, f"memorization of {data.name}").double().flatten(1)
    components = min(components, *train.shape)
    center = train.mean(0)
    _, scales, axes = torch.linalg.svd(train - center, full_matrices=False)
    axes = axes[:components].T
    places = (train - center) @ axes
    near, neighbours = nearest_neighbours((samples.flatten(1).to(train) - center) @ axes, places, progress=progress)
    real = rows(data, split, count, seed).flatten(1).to(train)
    held_out, _ = nearest_neighbours((real - center) @ axes, places, progress=progress)
    share = float(scales[:components].square().sum() / scales.square().sum())
    return Memorization(
        samples.cpu(), near[:, 0].cpu(), neighbours[:, 0].cpu(), held_out[:, 0].cpu(), of, components, share, seed
    )


def two_sample_z(a: Tensor, b: Tensor) -> float:
    """Mann–Whitney's U in standard units, with ties: negative if values of a (n,) are below those of b (m,).

    It is N(0, 1) for large n and m if both have the same distribution, and 0 if all values are equal.
    """
    from scipy.stats import rankdata

    n, m = len(a), len(b)
    ranks = torch.as_tensor(rankdata(torch.cat((a, b)).numpy(force=True)))
    above = float(ranks[:n].sum()) - n * (n + 1) / 2  # pairs in which a is larger; ties count half
    # the variance of ranks drawn without replacement, which accounts for ties
    variance = n * m / (n + m) * float(ranks.var())
    return (above - n * m / 2) / math.sqrt(variance) if variance else 0.0


@measure("memorization", held_out=True, figures=("memorization",))
def _memorization(context: EvaluationContext) -> MeasureResult:
    """Distance of generated data to training data, compared with that of held-out data."""
    from flowvae.evaluation.figures.generation_plots import plot_memorization

    result = measure_memorization(context.model, context.data, split=context.split, **context.options)
    metrics = result.metrics(context.split, {**context.protocol, "seed": context.seed})
    return MeasureResult(metrics, {"memorization": lambda: plot_memorization(result, context.data)})
