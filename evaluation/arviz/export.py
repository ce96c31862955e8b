"""Export of fitted pairs and importance samples to ArviZ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowvae.core.seeds import derive, seeded
from flowvae.data import Batch
from flowvae.evaluation.arviz.versions import from_groups, without_masked
from flowvae.evaluation.likelihood.importance_sampling import ImportanceSample
from flowvae.evaluation.likelihood.importance_weights import importance_draws
from flowvae.guides import AmortizedGuide
from flowvae.models import VAE
from flowvae.networks import in_eval_mode

__all__ = ["importance_sample_to_arviz", "to_arviz"]

# names of the axes of a data point, by number of axes
EVENTS = {1: ("feature",), 2: ("channel", "position"), 3: ("channel", "row", "column")}


@torch.no_grad()
@in_eval_mode
def to_arviz(model: VAE, guide: AmortizedGuide, x: Tensor | Batch, draws: int = 500, seed: int = 0) -> Any:
    """Export posterior, prior, predictions and log-likelihood of data as an ArviZ object.

    ArviZ 0.x gives an InferenceData, 1.x a DataTree.

    The draws of a guide are independent, so they form one chain, to which diagnostics of Markov chains (r_hat) do not
    apply. Groups: posterior (z), prior (z_new; per data point if it depends on a condition), posterior_predictive (x),
    log_likelihood (x, one value per data point), observed_data (x).

    Args:
        model: the VAE.
        guide: its guide.
        x: data, shape (N, *event); for a conditional model with the conditions.
        draws: draws per data point.
        seed: random seed of the draws.
    """
    batch = Batch.of(x)
    x, *given = batch.args
    blocks = list(importance_draws(model, guide, batch, draws, seed))
    code = torch.cat([block.code for block in blocks], dim=1)
    log_likelihood = torch.cat([block.log_likelihood for block in blocks], dim=1)
    with seeded(derive(seed, "predictive")):
        predicted = model.decode(code, *given).sample()
        prior = model.prior_given(*given).sample((draws,))
    groups = {
        "posterior": {"z": _chain(code)},
        "prior": {"z_new": _chain(prior)},
        "posterior_predictive": {"x": _chain(predicted)},
        "log_likelihood": {"x": _chain(log_likelihood)},
        "observed_data": {"x": x.numpy(force=True)},
    }
    event = EVENTS[x.ndim - 1]
    dims: dict[str, dict[str, tuple[str, ...]]] = {
        "posterior": {"z": ("datum", "latent")},
        "prior": {"z_new": ("latent",) if prior.ndim == 2 else ("datum", "latent")},
        "posterior_predictive": {"x": ("datum", *event)},
        "log_likelihood": {"x": ("datum",)},  # one value per data point
        "observed_data": {"x": ("datum", *event)},
    }
    coords = {
        "datum": np.arange(len(x)),
        "latent": np.arange(code.shape[-1]),
        **{name: np.arange(size) for name, size in zip(event, x.shape[1:], strict=True)},
    }
    return from_groups(groups, dims, coords)


def importance_sample_to_arviz(
    weighed: ImportanceSample,
    resampled: bool = False,
    seed: int = 0,
    posterior_predictive: Mapping[str, Tensor] | None = None,
) -> Any:
    """Export weighted draws of a guide, or resampled draws, as an ArviZ object.

    Groups: posterior, log_likelihood, observed_data; for the guide's own draws also sample_stats with log_p, log_q and
    the smoothed log_weight, all in nats. The attributes of the posterior hold k̂ and the number of effective draws. The
    draws are independent and form one chain, so use `az.summary(..., kind="stats")`. Masked data have no
    log-likelihood; its variable then has one dimension, "SITE_counted", with the indices of the other data points in
    the flattened data.

    Args:
        weighed: result of `importance_sample` or `importance_sample_each`.
        resampled: whether to export S resampled draws, which represent the posterior, instead of the guide's own.
        seed: random seed of the resampling.
        posterior_predictive: site → predictions (S, *shape) for the guide's draws, such as those of `predict`;
            resampled with the draws.
    """
    log_likelihood, likelihood_dims, coords = without_masked(weighed.log_likelihood, weighed.counted, weighed.dims)
    draws: dict[str, dict[str, Tensor]] = {
        "posterior": weighed.draws,
        "log_likelihood": log_likelihood,
        "posterior_predictive": dict(posterior_predictive or {}),
    }
    stats = {"log_p": weighed.log_joint, "log_q": weighed.log_guide, "log_weight": weighed.smoothed}
    each = weighed.log_weight.dim() - 1  # 1 if data points have weights of their own
    if resampled:
        index = weighed.resample_index(weighed.size, seed)
        draws = {group: {k: weighed.take(v, index) for k, v in values.items()} for group, values in draws.items()}
    else:
        draws["sample_stats"] = stats
    groups = {name: {k: _chain(v) for k, v in values.items()} for name, values in draws.items() if values}
    groups["observed_data"] = {name: value.numpy(force=True) for name, value in weighed.observed.items()}
    dims: dict[str, dict[str, tuple[str, ...]]] = {
        name: {key: weighed.dims.get(key, ()) for key in values} for name, values in draws.items()
    }
    dims["log_likelihood"] = likelihood_dims
    dims["sample_stats"] = dict.fromkeys(stats, ("datum",) if each else ())
    dims["observed_data"] = {name: weighed.dims[name] for name in weighed.observed}
    facts = {
        "draws_are": "resampled by smoothed importance weights" if resampled else "the guide's own",
        "pareto_k": weighed.pareto_k.numpy() if each else float(weighed.pareto_k),
        "effective_draws": weighed.effective_draws.numpy(force=True) if each else float(weighed.effective_draws),
    }
    return from_groups(groups, dims, coords, facts)


def _chain(value: Tensor) -> np.ndarray[Any, Any]:
    return value.unsqueeze(0).numpy(force=True)
