"""How much work goes into measures that treat every data point on its own."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from flowvae.errors import whole
from flowvae.evaluation.tempering import Tempering

__all__ = ["Effort"]


@dataclass(frozen=True)
class Effort:
    """Size of the measures that refine guides or run chains: IWAE bound, gaps, BDMC.

    Args:
        rows: data points that they are taken on, the first ones of the split.
        refinement: Adam steps that refine the guide for each data point.
        tempering: settings of annealed importance sampling; use 500 temperatures or more for a headline.
    """

    rows: int = 64
    refinement: int = 500
    tempering: Tempering = field(default_factory=lambda: Tempering(chains=16, temperatures=100))

    def __post_init__(self) -> None:
        whole(self, "rows")
        whole(self, "refinement")

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values, for a protocol."""
        return asdict(self)
