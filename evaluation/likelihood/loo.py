"""Leave-one-out cross-validation from weighted draws of a guide instead of posterior draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError, nearest, shown
from flowvae.evaluation.arviz.versions import psis
from flowvae.evaluation.likelihood.importance_sampling import ImportanceSample

__all__ = ["LeaveOneOut", "loo"]


@dataclass(frozen=True)
class LeaveOneOut:
    """Estimates of log p(y_i | y_−i), in nats.

    Args:
        pointwise: one estimate per data point, in the shape of the data's plate; with masked data (N,) for the N data
            points that are not masked, in order.
        pareto_k: k̂ of the weights of each data point, same shape.
        effective_parameters: log p(y_i | y) − log p(y_i | y_−i), summed over the data.
        good_k: largest k̂ for which S draws suffice.
    """

    pointwise: Tensor
    pareto_k: Tensor
    effective_parameters: float
    good_k: float

    @property
    def elpd(self) -> float:
        """Expected log pointwise predictive density: the sum over the data."""
        return float(self.pointwise.sum())

    @property
    def se(self) -> float:
        """Standard error of `elpd` over the data."""
        return float((self.pointwise.numel() * self.pointwise.var(correction=0)).sqrt())

    def __str__(self) -> str:
        bad = int((self.pareto_k > self.good_k).sum())
        return (
            f"elpd {self.elpd:.2f} ± {self.se:.2f} nats over {self.pointwise.numel()} data, "
            f"p_loo {self.effective_parameters:.2f}, k̂ above {self.good_k:.2f} for {bad}"
        )


def loo(weighed: ImportanceSample, site: str | None = None) -> LeaveOneOut:
    """Estimate the leave-one-out predictive density by Pareto-smoothed importance sampling, without masked data.

    `az.loo` weighs draw s by 1 / p(y_i | θ_s), which is correct for draws from the posterior. Draws of a guide need the
    weight p(y, θ_s) / (q(θ_s) p(y_i | θ_s)), as in `loo_approximate_posterior` of ArviZ 1.x.

    Args:
        weighed: result of `importance_sample`, with one log-weight per draw.
        site: the observed site; required if there are several.

    Raises:
        FlowvaeError: if each data point has its own latents, which no other data point informs; for a site that is not
            observed; for fewer than two data points.

    References:
        Magnusson et al. (2019), "Bayesian leave-one-out cross-validation for large data".
    """
    if weighed.log_weight.dim() > 1:
        raise FlowvaeError("each data point has its own latents, on which no other is informative; use log_evidence.")
    known = list(weighed.log_likelihood)
    if site is None and len(known) != 1:
        raise FlowvaeError(f"site = None: the model observes {', '.join(known) or 'nothing'}; name one of them.")
    name = site or known[0]
    if name not in known:
        raise FlowvaeError(f"site = {shown(name)}: {nearest(name, known)}")
    log_likelihood, counted = weighed.log_likelihood[name].double().cpu(), weighed.counted[name].cpu()
    kept = int(counted.sum())
    if kept < 2:
        masked = f" and {counted.numel() - kept} masked" if kept < counted.numel() else ""
        raise FlowvaeError(
            f"site {shown(name)}: {kept} data point(s){masked}; leave-one-out needs 2 or more. Data points are the "
            "elements of a site's batch, such as those of a plate; an event is one data point."
        )
    if not counted.all():
        log_likelihood = log_likelihood[:, counted]
    log_weight = weighed.log_weight.double().cpu().reshape(-1, *(1,) * (log_likelihood.dim() - 1))
    without, pareto_k = psis(log_weight - log_likelihood)
    pointwise = torch.logsumexp(without + log_likelihood, 0)
    with_all = torch.logsumexp(weighed.smoothed.reshape(log_weight.shape) + log_likelihood, 0)
    return LeaveOneOut(pointwise, pareto_k, float((with_all - pointwise).sum()), weighed.good_k)
