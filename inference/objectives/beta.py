"""The ELBO with a weighted KL term."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from flowvae.core.errors import check_number
from flowvae.inference.annealing import weigh_latent
from flowvae.inference.objectives.spec import ObjectiveSpec
from flowvae.inference.objectives.surrogate import SurrogateELBO

__all__ = ["Beta", "BetaTraceELBO"]


class BetaTraceELBO(SurrogateELBO):
    """β-VAE, E_q[log p(x | z) + β (log p(z) − log q(z | x))], as a Pyro ELBO.

        SVI(model, guide, optim, loss=BetaTraceELBO(beta=0.1))

    All latent sites are weighted. For β ≥ 1 it is a lower bound of log p(x), for β < 1 it is not a bound.

    Args:
        beta: β > 0.
        settings: `compile`, "none", "capture" or "inductor" (see `CompiledTrace_ELBO`), and those of `Trace_ELBO`.

    Raises:
        FlowvaeError: for another β.

    References:
        Higgins et al. (2017), "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework".
    """

    def __init__(self, *, beta: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.beta = beta
        check_number(self, "beta")
        self._weight = partial(getattr, self, "beta")  # one object, by which a program knows the number

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        weighted = (weigh_latent(part, self._weight) for part in (model, guide))
        return super()._get_trace(*weighted, args, kwargs)


@dataclass(frozen=True)
class Beta(ObjectiveSpec, name="beta"):
    """β-VAE: the ELBO with the KL term times β.

    The same as the objective `elbo` with `Training.kl_weight`, so the two cannot be combined.

    Args:
        weight: β > 0.
    """

    title: ClassVar[str] = "ELBO with a weighted KL term, β-VAE"
    paper: ClassVar[str] = "Higgins et al. 2017"
    combines: ClassVar[tuple[str, ...]] = ("particles", "kl_warmup")

    weight: float = 4.0

    def __post_init__(self) -> None:
        check_number(self, "weight")

    def build(self, **settings: Any) -> BetaTraceELBO:
        return BetaTraceELBO(beta=self.weight, **settings)
