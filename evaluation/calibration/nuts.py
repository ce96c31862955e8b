"""Reference posteriors by Pyro's NUTS, and the errors of approximations against them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import init_to_uniform
from pyro.infer.autoguide.initialization import InitMessenger
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.arviz.versions import arviz, from_groups, without_masked
from flowvae.evaluation.likelihood.importance_sampling import ImportanceSample
from flowvae.evaluation.likelihood.trace_sites import element, read_model, unmasked
from flowvae.guides.automatic.masks import check_sites
from flowvae.inference.check_guide import check_supports
from flowvae.networks import in_eval_mode

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compare_to_reference", "run_nuts"]

CHUNK = 250  # draws that the model scores at a time
REPEATS = 50  # pairs of samples from the same distribution, for the distance due to noise alone
Array = np.ndarray[Any, Any]


@in_eval_mode
def run_nuts(
    model: Callable[..., Any],
    *args: Any,
    draws: int = 1000,
    warmup: int = 1000,
    chains: int = 4,
    seed: int = 0,
    progress: bool = False,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    **kwargs: Any,
) -> Any:
    """Draw from a model's posterior by NUTS, one chain after the other, each with its own seed.

    Groups: posterior (latent and deterministic sites), sample_stats (lp = log p(data, θ) in nats, diverging),
    log_likelihood, observed_data. Masked data have no log-likelihood; its variable then has one dimension,
    "SITE_counted", with the indices of the other data points in the flattened data.

    Args:
        model: Pyro model with continuous latents.
        args: arguments of the model.
        draws: draws of each chain after warm-up.
        warmup: steps that tune the sampler and are discarded.
        chains: number of chains.
        seed: random seed of initial values and draws.
        progress: whether to show Pyro's progress bar.
        target_accept: target acceptance probability of the step size; closer to 1 for fewer divergences.
        max_tree_depth: a trajectory has up to 2^max_tree_depth steps.
        kwargs: keyword arguments of the model.

    Returns:
        An InferenceData (ArviZ 0.x) or a DataTree (1.x).

    Raises:
        FlowvaeError: for counts below 1 or fewer than 4 draws; for a model without latents, or with masked latents that
            have no posterior; under `poutine.scale`; for observed NaN.

    References:
        Hoffman & Gelman (2014), "The No-U-Turn sampler".
    """
    if draws < 4 or min(warmup, chains) < 1:  # Pyro's diagnostics need 4
        raise FlowvaeError(
            f"draws = {draws}, warmup = {warmup}, chains = {chains}: draws must be 4 or more, the others 1 or more."
        )
    with seeded(derive(seed, "read")):
        program = read_model(model, args, kwargs)
    program.refuse_scaled()
    names = list(program.of("latent"))
    if not names:
        raise FlowvaeError("the model has no latent site, so NUTS has nothing to draw.")
    discrete = [name for name in names if program.sites[name].free is None]
    if discrete:
        raise FlowvaeError(f"latent {', '.join(discrete)}: not continuous; NUTS draws only continuous latents.")
    with seeded(derive(seed, "check")):
        started = InitMessenger(init_to_uniform)(model)  # as NUTS starts; a prior draw may have density zero
        check_sites(started, args, kwargs, gradients=True)
        check_supports(started, None, args, kwargs)
    values: list[dict[str, Tensor]] = []
    diverging = np.zeros((chains, draws), dtype=bool)
    for chain in range(chains):
        with seeded(derive(seed, "nuts", chain)):
            kernel = NUTS(
                model,
                target_accept_prob=target_accept,
                max_tree_depth=max_tree_depth,
                max_plate_nesting=program.nesting,  # Pyro would otherwise find it by a prior draw
            )
            sampler = MCMC(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=not progress)
            sampler.run(*args, **kwargs)
        own = sampler.get_samples()
        values.append({name: own[name].reshape(draws, *program.sites[name].shape) for name in names})
        diverging[chain, sampler.diagnostics()["divergences"]["chain 0"]] = True
    given = {name: torch.cat([value[name] for value in values]).detach() for name in names}
    run = program.tried(given).run(given, draws * chains, CHUNK)

    def by_chain(value: Tensor) -> Array:
        return value.reshape(chains, draws, *value.shape[1:]).numpy(force=True)

    observed = program.of("observed")
    all_dims = {name: site.dims for name, site in program.sites.items()}
    log_likelihood, likelihood_dims, coords = without_masked(run.pointwise, unmasked(run), all_dims)
    groups: dict[str, dict[str, Array]] = {
        "posterior": {name: by_chain(run.values[name]) for name in program.of("latent", "deterministic")},
        "sample_stats": {"lp": by_chain(run.total), "diverging": diverging},
        "log_likelihood": {name: by_chain(value) for name, value in log_likelihood.items()},
        "observed_data": {name: site.value.numpy(force=True) for name, site in observed.items()},
    }
    dims = {
        "posterior": {name: all_dims[name] for name in groups["posterior"]},
        "log_likelihood": likelihood_dims,
        "observed_data": {name: all_dims[name] for name in observed},
    }
    return from_groups({name: group for name, group in groups.items() if group}, dims, coords)


def compare_to_reference(approximation: Any, reference: Any, weighted: bool = False, seed: int = 0) -> pd.DataFrame:
    """Compare the marginals of an approximation with those of a reference, parameter by parameter.

    Distances are in standard deviations of the reference. Each has its Monte Carlo error beside it: the standard errors
    of `mean_error` and `sd_ratio` (the latter for near-Gaussian tails), and for `wasserstein` (W₁, never negative) its
    mean over pairs of samples from the reference with the same number of effective draws.

    Args:
        approximation: an `ImportanceSample` of a whole model, an ArviZ object, or site → draws (chains, draws, ...).
        reference: likewise, such as the result of `run_nuts`. The sites in both are compared, without elements that are
            constant, such as the diagonal of a correlation matrix.
        weighted: whether to use the smoothed importance weights of an `ImportanceSample`.
        seed: random seed of the pairs of samples.

    Raises:
        FlowvaeError: if nothing can be compared, for `weighted` with draws that have no weights, and for draws that are
            not finite.
    """
    import pandas as pd

    if weighted and not (isinstance(approximation, ImportanceSample) and approximation.log_weight.dim() == 1):
        raise FlowvaeError("weighted = True: needs an ImportanceSample of a whole model; use importance_sample.")
    ours, theirs = _draws(approximation), _draws(reference)
    names = [name for name in theirs if name in ours and ours[name].shape[2:] == theirs[name].shape[2:]]
    if not names:
        raise FlowvaeError(f"nothing to compare: the sites are {sorted(ours)} and {sorted(theirs)}.")
    independent = isinstance(approximation, ImportanceSample)  # draws of a chain are not
    weights = approximation.smoothed.exp().numpy() if weighted else None
    rng = np.random.default_rng(derive(seed, "compare"))
    rows = {}
    for name in names:
        for index in np.ndindex(*theirs[name].shape[2:]):
            one, other, label = ours[name][..., *index], theirs[name][..., *index], element(name, index)
            if not (np.isfinite(one).all() and np.isfinite(other).all()):
                raise FlowvaeError(f"{label}: some draws are not finite, so they cannot be compared; leave them out.")
            if np.ptp(other) > 0:
                rows[label] = _compare(one, other, weights, independent, rng)
            elif not np.array_equal(np.unique(one), np.unique(other)):
                raise FlowvaeError(
                    f"{label}: constant ({other.flat[0]:g}) in the reference, but not here; check the model."
                )
    if not rows:
        raise FlowvaeError(f"nothing to compare: {', '.join(names)} is constant in the reference; name other sites.")
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("parameter")


def _compare(
    ours: Array, theirs: Array, weights: Array | None, independent: bool, rng: np.random.Generator
) -> dict[str, float]:
    from scipy.stats import wasserstein_distance

    p = np.full(ours.size, 1 / ours.size) if weights is None else weights
    unit, centre = theirs.std(ddof=1), theirs.mean()
    a, b = (ours.ravel() - centre) / unit, (theirs.ravel() - centre) / unit
    mean = p @ a
    sd = np.sqrt(p @ (a - mean) ** 2)
    size_a, spread_a = (1 / (p**2).sum(),) * 2 if independent else _effective(ours)
    size_b, spread_b = _effective(theirs)
    halves = [
        wasserstein_distance(rng.choice(b, math.ceil(size_a)), rng.choice(b, math.ceil(size_b))) for _ in range(REPEATS)
    ]
    return {
        "mean_error": mean,
        "mean_error_se": np.sqrt(sd**2 / size_a + 1 / size_b),
        "sd_ratio": sd,
        "sd_ratio_se": sd * np.sqrt(0.5 / spread_a + 0.5 / spread_b),
        "wasserstein": wasserstein_distance(a, b, p),
        "wasserstein_noise": float(np.mean(halves)),
    }


def _effective(values: Array) -> tuple[float, float]:
    """Effective sample sizes of chains (chains, draws), for the mean and for the standard deviation."""
    return float(arviz().ess(values, method="mean")), float(arviz().ess(values, method="sd"))


def _draws(source: Any) -> dict[str, Array]:
    if isinstance(source, ImportanceSample):
        return {name: value[None].double().numpy(force=True) for name, value in source.draws.items()}
    if isinstance(source, dict):
        return {name: np.asarray(value, dtype=float) for name, value in source.items()}
    return {str(name): np.asarray(value, dtype=float) for name, value in source["posterior"].items()}
