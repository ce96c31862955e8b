"""Objectives by name: settings that build the Pyro ELBO which a training minimizes."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from pyro.infer import Trace_ELBO

from flowvae.core.errors import FlowvaeError, SlowDirectionWarning, shown
from flowvae.core.parts import Cost, GuideSpec, PriorSpec
from flowvae.core.registry import Spec

if TYPE_CHECKING:
    from flowvae.inference.training import Training

__all__ = ["ObjectiveSpec", "warn_if_inverted", "warn_if_slow_score"]

NEUTRAL = {"particles": 1, "kl_weight": 1, "kl_warmup": 0, "tempering": 0}  # values that do not change an objective
SLOW = 3  # warn above this ratio of the costs of a part's two directions


class ObjectiveSpec(Spec, ABC, kind="objective"):
    """Settings of a training objective; `build` gives its Pyro ELBO.

        @dataclass(frozen=True)
        class MeanField(ObjectiveSpec, name="mean-field"):
            def build(self, **settings):
                settings.pop("compile", None)
                return TraceMeanField_ELBO(**settings)

    The objective is minimized in training, and its value on validation data, always with the same noise, selects the
    best epoch. Measures report the ELBO and the likelihood, whatever the objective.

    Attributes:
        combines: settings of `Training` that it can be combined with, among "particles", "kl_weight", "kl_warmup" and
            "tempering".
    """

    combines: ClassVar[tuple[str, ...]] = tuple(NEUTRAL)

    @abstractmethod
    def build(self, **settings: Any) -> Trace_ELBO:
        """Build the loss of `pyro.infer.SVI`.

        Args:
            settings: settings of `Trace_ELBO`, and `compile`, one of "none", "capture" and "inductor".
        """

    @property
    def draws(self) -> int | None:
        """Number of draws that define the objective; None: it is a mean over any number of draws."""
        return None

    def check(self, training: Training) -> None:
        """Check the other settings of a training with this objective.

        Raises:
            FlowvaeError: for settings that cannot be combined with it.
        """
        for name, neutral in NEUTRAL.items():
            value = getattr(training, name)
            if value != neutral and name not in self.combines:
                raise FlowvaeError(
                    f"{name} = {value:g} with objective = {shown(self)}: cannot be combined; use {name} = {neutral}."
                )

    def check_parts(self, prior: PriorSpec, guide: GuideSpec, features: int, conditional: bool) -> None:
        """Warn of parts that do not suit the objective, before a training; nothing by default.

        Args:
            prior: the prior.
            guide: the guide head.
            features: size of the code.
            conditional: whether the prior reads a condition.
        """


def warn_if_inverted(what: str, part: PriorSpec | GuideSpec, passes: int, usual: int) -> None:
    """Warn if an objective needs the expensive direction of a part.

    Args:
        what: the use of the part.
        part: the prior or the guide head.
        passes: network passes of this use.
        usual: network passes with the objective `elbo`.
    """
    if passes > SLOW * max(usual, 1):
        warnings.warn(
            f"{what} of {shown(part)} costs {passes} network passes, with the objective elbo only {usual}.",
            SlowDirectionWarning,
            stacklevel=4,
        )


def warn_if_slow_score(objective: str, guide: GuideSpec, features: int) -> None:
    """Warn if log q at given codes is much more expensive than a draw with its density."""
    cost: Cost = guide.cost(features)
    warn_if_inverted(
        f"objective {objective}: the density of a given code", guide, cost.density, cost.sample_and_density
    )
