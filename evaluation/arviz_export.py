"""A fitted pair as ArviZ data; the one place that knows ArviZ 0.x from 1.x."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowvae.evaluation.weights import importance_draws
from flowvae.guides import AmortizedGuide
from flowvae.models import VAE
from flowvae.seeds import derive, seeded

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # 0.23 announces 1.0 at every import
    import arviz as az

__all__ = ["pareto_k", "to_arviz"]

OLD = int(az.__version__.split(".")[0]) == 0


def pareto_k(log_weight: Tensor) -> Tensor:
    """Shape k̂ of the generalized Pareto tail of each datum's weights (S, B) → (B,).

    NaN where there are too few draws to fit a tail.

    References:
        Vehtari et al. (2024), "Pareto smoothed importance sampling".
    """
    draws, data = log_weight.shape
    if draws < 25:  # ArviZ fits no tail of fewer than five draws, a fifth of them
        return torch.full((data,), torch.nan)
    weights = log_weight.T.double().numpy(force=True)
    with np.errstate(over="ignore"):  # where one weight is all, the fit overflows and k̂ is huge, as it should be
        if OLD:
            shapes = [az.psislw(row.copy())[1] for row in weights]
        else:
            from arviz_stats.base import array_stats

            # 1.x wants log-likelihoods, which it negates
            shapes = [array_stats.psislw(-row, r_eff=1.0)[1] for row in weights]
    return torch.as_tensor(np.asarray(shapes, dtype=np.float64).reshape(data))


@torch.no_grad()
def to_arviz(model: VAE, guide: AmortizedGuide, x: Tensor, draws: int = 500, seed: int = 0) -> Any:
    """Posterior, prior, predictions and log-likelihood of data x (N, D), as an ArviZ object.

    ArviZ 0.x gives an InferenceData, 1.x a DataTree.

    The draws of a guide are independent, so they are one chain; diagnostics of Markov chains (r_hat) say
    nothing about them. Groups: posterior (z), prior (z), posterior_predictive (x), log_likelihood (x, one
    value a datum), observed_data (x).

    Args:
        model: the VAE.
        guide: its guide.
        x: data, shape (N, D).
        draws: draws a datum.
        seed: decides them.
    """
    blocks = list(importance_draws(model, guide, x, draws, seed))
    code = torch.cat([block.code for block in blocks], dim=1)
    log_likelihood = torch.cat([block.log_likelihood for block in blocks], dim=1)
    with seeded(derive(seed, "predictive")):
        predicted = model.decode(code).sample()
        prior = model.prior().sample((draws,))

    def chain(value: Tensor) -> np.ndarray[Any, Any]:
        return value.unsqueeze(0).numpy(force=True)

    groups = {
        "posterior": {"z": chain(code)},
        "prior": {"z_new": chain(prior)},
        "posterior_predictive": {"x": chain(predicted)},
        "log_likelihood": {"x": chain(log_likelihood)},
        "observed_data": {"x": x.numpy(force=True)},
    }
    dims = {"z": ["datum", "latent"], "z_new": ["latent"], "x": ["datum", "feature"]}
    coords = {
        "datum": np.arange(len(x)),
        "latent": np.arange(code.shape[-1]),
        "feature": np.arange(x.shape[-1]),
    }
    return _from_dict(groups, dims, coords)


def _from_dict(groups: dict[str, Any], dims: dict[str, list[str]], coords: dict[str, Any]) -> Any:
    # the log-likelihood of x has one value a datum, and no feature
    if OLD:
        data = az.from_dict(
            **{name: values for name, values in groups.items() if name != "log_likelihood"},
            dims=dims,
            coords=coords,
        )
        data.extend(az.from_dict(log_likelihood=groups["log_likelihood"], dims={"x": ["datum"]}, coords=coords))
        return data
    others = {name: values for name, values in groups.items() if name != "log_likelihood"}
    data = az.from_dict(others, dims=dims, coords=coords)
    own = az.from_dict({"log_likelihood": groups["log_likelihood"]}, dims={"x": ["datum"]}, coords=coords)
    data["log_likelihood"] = own["log_likelihood"]
    return data
