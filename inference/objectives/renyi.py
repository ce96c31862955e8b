"""The variational Rényi bound, a mean of order 1 − α of the importance weights of K draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from flowvae.core.errors import FlowvaeError, check_int, plain_number, shown
from flowvae.inference.objectives.log_weights import LogWeights, log_weights, refuse_unreparametrized, sample_sites
from flowvae.inference.objectives.spec import ObjectiveSpec
from flowvae.inference.objectives.surrogate import SurrogateELBO

__all__ = ["Renyi", "RenyiTraceELBO"]


class RenyiTraceELBO(SurrogateELBO):
    """VR bound log (1/K Σ_k w_k^(1−α)) / (1 − α) of the weights w_k = p(x, z_k) / q(z_k | x), as a Pyro ELBO.

        SVI(model, guide, optim, loss=RenyiTraceELBO(alpha=0.5, num_particles=8, vectorize_particles=True))

    In expectation it falls with α, from the bound of the IWAE (α = 0) to the ELBO (α = 1), grows with K, and is below
    log p(x). Other orders are an error. For α < 0 it is not a bound: for many draws its limit is above log p(x), for
    few draws its value is below. For α > 1 it is looser than the ELBO, and w^(1−α) may have no mean.

    There is one bound for each index of the plates that contain all sites, weighted by `poutine.scale`, and by the full
    size of a subsampled plate; without such a plate, one for the whole model. A latent site that is scaled relative to
    the observed ones, alike in model and guide, has a weighted term log p − log q.

    Pyro's own `RenyiELBO` also differentiates guides that are not reparametrized, and multiplies log-weights by scales.

    Args:
        alpha: order α, in [0, 1].
        num_particles: K.
        compile: "none", "capture" or "inductor", see `CompiledTrace_ELBO`.
        settings: those of `Trace_ELBO`.

    Raises:
        FlowvaeError: for another α, a guide that is not reparametrized, a plate that is subsampled and does not contain
            all sites, or scales that differ otherwise.

    References:
        Li & Turner (2016), "Rényi Divergence Variational Inference".
    """

    def __init__(self, *, alpha: float = 0.5, num_particles: int = 2, **settings: Any) -> None:
        super().__init__(num_particles=num_particles, **settings)
        self.alpha = _checked_order("RenyiTraceELBO.alpha", alpha)

    def _terms(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
        pairs = list(self._get_traces(model, guide, args, kwargs))
        for _, guide_trace in pairs:
            refuse_unreparametrized(sample_sites(guide_trace), "pyro.infer.RenyiELBO")
        loss = self._loss(log_weights(pairs, self.num_particles, self.vectorize_particles))
        return loss, loss

    def _loss(self, weights: LogWeights) -> Tensor:
        """Negative bound, summed over the plates."""
        values, order = weights.values, 1 - self.alpha
        if order == 0 or self.num_particles == 1:
            bound = values.mean(0)
        else:
            bound = ((order * values).logsumexp(0) - math.log(self.num_particles)) / order
        return -(weights.scale * bound).sum()


@dataclass(frozen=True)
class Renyi(ObjectiveSpec, name="renyi"):
    """Variational Rényi bound of order α with K draws: between the IWAE's bound (α = 0) and the ELBO (α = 1).

    Args:
        alpha: order α, in [0, 1].
        particles: K.
    """

    title: ClassVar[str] = "variational Rényi bound"
    paper: ClassVar[str] = "Li & Turner 2016"
    combines: ClassVar[tuple[str, ...]] = ("kl_warmup",)

    alpha: float = 0.5
    particles: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", _checked_order("Renyi.alpha", self.alpha))
        check_int(self, "particles")

    @property
    def draws(self) -> int:
        return self.particles

    def build(self, **settings: Any) -> RenyiTraceELBO:
        return RenyiTraceELBO(**{"num_particles": self.particles, "alpha": self.alpha, **settings})


def _checked_order(label: str, alpha: object) -> float:
    number = plain_number(alpha)
    if type(number) not in (int, float) or not 0 <= number <= 1:
        raise FlowvaeError(
            f"{label} = {shown(alpha)}: must be from 0, the bound of the IWAE, to 1, the ELBO; for α < 0 the estimate "
            "is not a bound, and for α > 1 it is looser than the ELBO."
        )
    return float(number)
