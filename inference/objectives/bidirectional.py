"""The ELBO plus the reverse KL divergence from a conditional prior to the guide."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from flowvae.core.errors import FlowvaeError, check_number
from flowvae.core.parts import GuideSpec, PriorSpec
from flowvae.inference.objectives.log_weights import sample_sites
from flowvae.inference.objectives.spec import ObjectiveSpec, warn_if_inverted, warn_if_slow_score
from flowvae.inference.objectives.surrogate import SurrogateELBO

__all__ = ["Bidirectional", "BidirectionalTraceELBO"]


class BidirectionalTraceELBO(SurrogateELBO):
    """ELBO − λ KL(p(z | c) ‖ q(z | x)), both directions of the KL divergence, as a Pyro ELBO.

        SVI(model, guide, optim, loss=BidirectionalTraceELBO(weight=1.0))

    The second term draws all latent sites from the model, reparametrized, and evaluates the guide there. So draws with
    their density must be cheap for the prior, and densities of given codes for the guide: Gaussians and coupling flows.

    The term needs a condition c that determines z almost completely. Without one, E_x KL(p(z) ‖ q(z | x)) is zero only
    if every q(z | x) is p(z): codes lose all information about x.

    Args:
        weight: λ ≥ 0; 0 is `Trace_ELBO`.
        settings: `compile`, "none", "capture" or "inductor" (see `CompiledTrace_ELBO`), and those of `Trace_ELBO`.

    Raises:
        FlowvaeError: for λ < 0, latent sites that differ between model and guide, or one without reparametrized draws.

    References:
        Tan et al. (2022), "NaturalSpeech: End-to-End Text to Speech Synthesis with Human-Level Quality", section 3.3.
    """

    def __init__(self, *, weight: float = 1.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.weight = weight
        check_number(self, "weight", least=0)

    def _terms(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
        loss, surrogate = super()._terms(model, guide, args, kwargs)
        if self.weight == 0:
            return loss, surrogate
        reverse: Any = 0.0
        together = self.vectorize_particles and self.num_particles > 1
        if together:
            model, guide = self._vectorized_num_particles(model), self._vectorized_num_particles(guide)
        for _ in range(1 if together else self.num_particles):
            reverse = reverse + _reverse_kl(model, guide, args, kwargs)
        term = self.weight * reverse / self.num_particles
        return loss + term, surrogate + term


def _reverse_kl(model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
    """Estimate KL(p(z) ‖ q(z | x)) in nats by draws from the model, summed over the plates."""
    prior = poutine.trace(model).get_trace(*args, **kwargs)
    posterior = poutine.trace(poutine.replay(guide, trace=prior)).get_trace(*args, **kwargs)
    prior, posterior = prune_subsample_sites(prior), prune_subsample_sites(posterior)
    latent = {name: site for name, site in sample_sites(prior).items() if not site["is_observed"]}
    sites = sample_sites(posterior)
    if latent.keys() != sites.keys():
        raise FlowvaeError(
            f"latent sites {', '.join(sorted(latent))} of the model, {', '.join(sorted(sites))} of the guide: must be "
            "the same; use Trace_ELBO."
        )
    for name, site in latent.items():
        if not site["fn"].has_rsample:
            raise FlowvaeError(
                f"site {name!r} of the model is not reparametrized, so KL(p ‖ q) has no path derivative; use another "
                "prior, such as a normal or a coupling flow."
            )
    prior.compute_log_prob(lambda name, site: name in latent)
    posterior.compute_log_prob()
    total: Any = 0.0
    for name, site in latent.items():
        total = total + site["log_prob_sum"] - sites[name]["log_prob_sum"]
    return total


@dataclass(frozen=True)
class Bidirectional(ObjectiveSpec, name="bidirectional"):
    """ELBO − λ KL(p(z | c) ‖ q(z | x)) for a conditional prior whose condition determines z almost completely.

    Args:
        weight: λ ≥ 0.
    """

    title: ClassVar[str] = "ELBO with both directions of the KL divergence"
    paper: ClassVar[str] = "Tan et al. 2022"
    combines: ClassVar[tuple[str, ...]] = ("particles", "kl_warmup")

    weight: float = 1.0

    def __post_init__(self) -> None:
        check_number(self, "weight", least=0)

    def check_parts(self, prior: PriorSpec, guide: GuideSpec, features: int, conditional: bool) -> None:
        cost = prior.cost(features)
        warn_if_inverted(
            "objective bidirectional: a draw with its density", prior, cost.sample_and_density, cost.density
        )
        warn_if_slow_score("bidirectional", guide, features)
        if not conditional and self.weight:
            warnings.warn(
                "objective bidirectional without a conditional prior: KL(p ‖ q) pulls every q(z | x) to the same "
                "p(z), so codes lose their information; use a condition, or the objective elbo.",
                UserWarning,
                stacklevel=3,
            )

    def build(self, **settings: Any) -> BidirectionalTraceELBO:
        return BidirectionalTraceELBO(weight=self.weight, **settings)
