"""The importance-weighted bound of K draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from flowvae.core.errors import check_int
from flowvae.inference.objectives.renyi import RenyiTraceELBO
from flowvae.inference.objectives.spec import ObjectiveSpec

__all__ = ["IWAE", "IWAETraceELBO"]


class IWAETraceELBO(RenyiTraceELBO):
    """Importance-weighted bound E[log 1/K Σ_k w_k], w_k = p(x, z_k) / q(z_k | x), as a Pyro ELBO.

        SVI(model, guide, optim, loss=IWAETraceELBO(num_particles=8, vectorize_particles=True))

    It grows with K from the ELBO to log p(x), and costs K evaluations of model and guide. The signal of the guide's
    gradient vanishes faster than its noise, signal-to-noise of order 1/√K (Rainforth et al. 2018); `DReGTraceELBO` does
    not have this problem. Plates, scales and errors are those of `RenyiTraceELBO`.

    Args:
        num_particles: K.
        settings: `compile`, see `RenyiTraceELBO`, and those of `Trace_ELBO`.

    References:
        Burda, Grosse & Salakhutdinov (2016), "Importance Weighted Autoencoders".
    """

    def __init__(self, *, num_particles: int = 2, **settings: Any) -> None:
        super().__init__(alpha=0.0, num_particles=num_particles, **settings)


@dataclass(frozen=True)
class IWAE(ObjectiveSpec, name="iwae"):
    """Importance-weighted bound E[log 1/K Σ_k p(x, z_k) / q(z_k | x)].

    Args:
        particles: K.
    """

    title: ClassVar[str] = "importance-weighted bound"
    paper: ClassVar[str] = "Burda et al. 2016"
    combines: ClassVar[tuple[str, ...]] = ("kl_warmup",)

    particles: int = 8

    def __post_init__(self) -> None:
        check_int(self, "particles")

    @property
    def draws(self) -> int:
        return self.particles

    def build(self, **settings: Any) -> IWAETraceELBO:
        return IWAETraceELBO(**{"num_particles": self.particles, **settings})
