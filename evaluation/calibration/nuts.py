"""The reference: NUTS by Pyro, and how far an approximation is from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import init_to_uniform
from pyro.infer.autoguide.initialization import InitMessenger
from scipy.stats import wasserstein_distance
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.arviz.versions import arviz, from_groups, without_masked
from flowvae.evaluation.likelihood.importance_sampling import ImportanceSample
from flowvae.evaluation.likelihood.trace_sites import element, read_model, unmasked
from flowvae.guides.automatic.masks import check_sites
from flowvae.inference.check_guide import check_supports
from flowvae.networks import in_eval_mode

__all__ = ["compare_to_reference", "run_nuts"]

CHUNK = 250  # draws that the model scores at a time
REPEATS = 50  # pairs of samples of one law, from which the distance that is noise alone comes
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
    """Draw from a model's posterior by NUTS, chain after chain; each has a seed of its own.

    Groups: posterior (latent and deterministic sites), sample_stats (lp = log p(data, θ) in nats, diverging),
    log_likelihood, observed_data. Data that a mask leaves out have no log-likelihood: its variable then has one
    dimension, "SITE_counted", with their places in the flattened data.

    Args:
        model: Pyro model with continuous latents.
        args: its arguments.
        draws: of each chain after the warm-up.
        warmup: steps that tune the sampler, and are dropped.
        chains: how many.
        seed: decides starts and draws.
        progress: whether to show Pyro's progress bar.
        target_accept: acceptance probability that the step size aims at; closer to 1 for fewer divergences.
        max_tree_depth: trajectories have up to 2 to its power steps.
        kwargs: the model's named arguments.

    Returns:
        an InferenceData (ArviZ 0.x) or a DataTree (1.x).

    Raises:
        FlowvaeError: for counts below 1, or fewer than 4 draws; for a model without latents, or with latents that its
            masks leave without a posterior; under `poutine.scale`; for observed NaN.

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
        raise FlowvaeError("the model has no latent site: NUTS has nothing to draw.")
    discrete = [name for name in names if program.sites[name].free is None]
    if discrete:
        raise FlowvaeError(f"latent {', '.join(discrete)}: not continuous; NUTS draws continuous latents alone.")
    with seeded(derive(seed, "check")):
        started = InitMessenger(init_to_uniform)(model)  # as NUTS starts: prior draws may be impossible
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
                max_plate_nesting=program.nesting,  # which Pyro would count in a prior draw
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
    """How far an approximation's marginals are from a reference's, parameter by parameter.

    Every distance is in standard deviations of the reference, and has beside it what Monte Carlo error alone would
    give: standard errors of `mean_error` and `sd_ratio` (the latter for near-Gaussian tails), and for `wasserstein`
    (W₁, never below zero) its mean over pairs of samples of the reference of as many effective draws.

    Args:
        approximation: a `ImportanceSample` of a whole model, an ArviZ object, or site → draws (chains, draws, ...).
        reference: the same, such as what `run_nuts` gave. Sites that both have are compared; numbers that are the
            same at every draw, such as the diagonal of a correlation matrix, are left out.
        weighted: use the smoothed importance weights of an `ImportanceSample` instead of its plain draws.
        seed: decides the pairs of samples.

    Raises:
        FlowvaeError: where nothing can be compared, or `weighted` is asked of draws that have no weights; for draws
            that are not finite.
    """
    if weighted and not (isinstance(approximation, ImportanceSample) and approximation.log_weight.dim() == 1):
        raise FlowvaeError("weighted = True: needs a Weighed of a whole model, as `weigh` gives.")
    ours, theirs = _draws(approximation), _draws(reference)
    names = [name for name in theirs if name in ours and ours[name].shape[2:] == theirs[name].shape[2:]]
    if not names:
        raise FlowvaeError(f"nothing to compare: the sites are {sorted(ours)} and {sorted(theirs)}.")
    independent = isinstance(approximation, ImportanceSample)  # a guide's draws; those of a chain are not
    weights = approximation.smoothed.exp().numpy() if weighted else None
    rng = np.random.default_rng(derive(seed, "compare"))
    rows = {}
    for name in names:
        for index in np.ndindex(*theirs[name].shape[2:]):
            one, other, label = ours[name][..., *index], theirs[name][..., *index], element(name, index)
            if not (np.isfinite(one).all() and np.isfinite(other).all()):
                raise FlowvaeError(f"{label}: draws that are not finite cannot be compared.")
            if np.ptp(other) > 0:
                rows[label] = _compare(one, other, weights, independent, rng)
            elif not np.array_equal(np.unique(one), np.unique(other)):
                raise FlowvaeError(f"{label}: {other.flat[0]:g} at every draw of the reference, but not here.")
    if not rows:
        raise FlowvaeError(f"nothing to compare: no number of {', '.join(names)} varies in the reference.")
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("parameter")


def _compare(
    ours: Array, theirs: Array, weights: Array | None, independent: bool, rng: np.random.Generator
) -> dict[str, float]:
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
    """Effective draws of chains (chains, draws), for the mean and for the standard deviation."""
    return float(arviz().ess(values, method="mean")), float(arviz().ess(values, method="sd"))


def _draws(source: Any) -> dict[str, Array]:
    if isinstance(source, ImportanceSample):
        return {name: value[None].double().numpy(force=True) for name, value in source.draws.items()}
    if isinstance(source, dict):
        return {name: np.asarray(value, dtype=float) for name, value in source.items()}
    return {str(name): np.asarray(value, dtype=float) for name, value in source["posterior"].items()}
