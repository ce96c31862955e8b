"""The ELBO with free bits: a floor below which the KL term of a dimension is not reduced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent

from flowvae.core.errors import FlowvaeError, check_number
from flowvae.flows.pyro_adapter import PyroFlow
from flowvae.inference.objectives.log_weights import PARTICLES, differ, plates_of, refuse_unreparametrized, sample_sites
from flowvae.inference.objectives.spec import ObjectiveSpec
from flowvae.inference.objectives.surrogate import SurrogateELBO

__all__ = ["FreeBits", "FreeBitsTraceELBO"]


class FreeBitsTraceELBO(SurrogateELBO):
    """ELBO with the KL term N Σ_j max(λ, mean_i KL_j(x_i)) over the N data points of a batch, as a Pyro ELBO.

        SVI(model, guide, optim, loss=FreeBitsTraceELBO(nats=0.25))

    j runs over the dimensions of a latent site where q(z | x) and p(z) have independent dimensions (`Independent` of
    Pyro, torch and zuko); any other site, such as one with a flow prior, is one group with its whole KL term. KL terms
    are estimated by the draws of the step, log q − log p, so the floor acts on their mean over the plate of the site
    and all draws. λ = 0 is `Trace_ELBO`.

    A scale of a site, by `poutine.scale` or a subsampled plate, is a weight in the mean, and scales the term.

    Args:
        nats: λ in nats per group.
        settings: `compile`, "none", "capture" or "inductor" (see `CompiledTrace_ELBO`), and those of `Trace_ELBO`.

    Raises:
        FlowvaeError: for λ < 0, or a latent site that is not reparametrized, has two plates, is not in both model and
            guide, or is scaled differently there.

    References:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever & Welling (2016), "Improved Variational Inference with Inverse
        Autoregressive Flow", appendix C.8.
    """

    def __init__(self, *, nats: float = 0.25, **settings: Any) -> None:
        super().__init__(**settings)
        self.nats = nats
        check_number(self, "nats", least=0)

    def _terms(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.nats == 0:
            return super()._terms(model, guide, args, kwargs)
        pairs = list(self._get_traces(model, guide, args, kwargs))
        loss: Any = 0.0
        terms: dict[str, list[_Term]] = {}
        for model_trace, guide_trace in pairs:
            latent = sample_sites(guide_trace)
            refuse_unreparametrized(latent, "pyro.infer.Trace_ELBO")
            for name, site in sample_sites(model_trace).items():
                if name in latent:
                    terms.setdefault(name, []).append(_term(name, latent.pop(name), site))
                else:
                    loss = loss - site["log_prob_sum"] / self.num_particles
            if latent:
                raise FlowvaeError(f"site {next(iter(latent))!r} of the guide is not in the model; use Trace_ELBO.")
        for found in terms.values():
            kl = torch.stack([term.kl for term in found]).mean(0)
            size, scale = found[0].size, found[0].scale
            loss = loss + (scale * size * kl.clamp(min=self.nats)).sum()
        loss = torch.as_tensor(loss)
        return loss, loss


class _Term(NamedTuple):
    """KL term of a site: means over its plate, shape (J,), the size of the plate, and the scale of the site."""

    kl: Tensor
    size: Tensor
    scale: Any


def _term(name: str, q: Any, p: Any) -> _Term:
    for part, site in (("guide", q), ("model", p)):
        if len(plates := plates_of(site)) > 1:
            raise FlowvaeError(
                f"site {name!r} of the {part} has the plates {', '.join(frame.name for frame in plates)}: free bits "
                "need the mean over one plate; use event dimensions (to_event)."
            )
    if differ(q["scale"], p["scale"]):
        raise FlowvaeError(
            f"poutine.scale: {p['scale']} at site {name!r} of the model, {q['scale']} of the guide; scale both alike."
        )
    of_q, of_p = _factors(q), _factors(p)
    if of_q is None or of_p is None or of_q.shape != of_p.shape:
        ratio = (q["unscaled_log_prob"] - p["unscaled_log_prob"]).unsqueeze(-1)
    else:
        ratio = of_q - of_p
    scale, weights = p["scale"], torch.ones_like(ratio[..., :1])
    if isinstance(scale, Tensor) and scale.numel() > 1:  # one for each data point
        weights, scale = weights * scale.unsqueeze(-1), 1.0
    for mask in (q["mask"], p["mask"]):
        if mask is not None and mask is not True:
            mask = torch.as_tensor(mask).unsqueeze(-1)
            ratio, weights = torch.where(mask, ratio, 0.0), torch.where(mask, weights, 0.0)
    batch = tuple(range(ratio.dim() - 1))
    size = weights.sum() if not batch else weights.sum(batch)
    total = ratio * weights if not batch else (ratio * weights).sum(batch)
    draws = [frame.size for frame in p["cond_indep_stack"] if frame.name == PARTICLES]
    return _Term(total / size.clamp(min=torch.finfo(size.dtype).tiny), size / (draws[0] if draws else 1), scale)


def _factors(site: Any) -> Tensor | None:
    """Log-densities of the independent dimensions of a site, shape (*batch, J); None if they are not independent."""
    fn = site["fn"].flow if isinstance(site["fn"], PyroFlow) else site["fn"]
    if not fn.event_shape:
        return site["unscaled_log_prob"].unsqueeze(-1)
    if not isinstance(fn, Independent):
        return None
    log_prob: Tensor = fn.base_dist.log_prob(site["value"])
    return log_prob.flatten(-fn.reinterpreted_batch_ndims)


@dataclass(frozen=True)
class FreeBits(ObjectiveSpec, name="free-bits"):
    """ELBO with a floor λ of the KL term of each dimension, against collapsed units: N Σ_j max(λ, mean_i KL_j).

    Dimensions are those of the code if prior and guide are factorized, such as `normal` and `gaussian`; otherwise the
    floor is for the whole code. On validation data, means are over parts of up to 4096 / `validation_draws` points.

    Args:
        nats: λ, per dimension.
    """

    title: ClassVar[str] = "ELBO with free bits"
    paper: ClassVar[str] = "Kingma et al. 2016"
    combines: ClassVar[tuple[str, ...]] = ("particles", "kl_weight", "kl_warmup")

    nats: float = 0.25

    def __post_init__(self) -> None:
        check_number(self, "nats", least=0)

    def build(self, **settings: Any) -> FreeBitsTraceELBO:
        return FreeBitsTraceELBO(nats=self.nats, **settings)
