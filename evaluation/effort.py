"""Computational effort of measures that treat each data point separately."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from flowvae.core.errors import check_int
from flowvae.evaluation.likelihood.annealed_hmc import AnnealedHMC

__all__ = ["Effort"]


@dataclass(frozen=True)
class Effort:
    """Size of the measures that refine guides or run chains: IWAE bound, gaps, BDMC.

    Args:
        rows: number of data points, the first ones of the split.
        refinement: Adam steps of the guide's refinement for each data point.
        tempering: settings of annealed importance sampling; use 500 temperatures or more for published results.
    """

    rows: int = 64
    refinement: int = 500
    tempering: AnnealedHMC = field(default_factory=lambda: AnnealedHMC(chains=16, temperatures=100))

    def __post_init__(self) -> None:
        check_int(self, "rows")
        check_int(self, "refinement")

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values, for the protocol of a metric."""
        return asdict(self)
