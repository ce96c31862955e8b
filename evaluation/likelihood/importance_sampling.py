"""Pareto-smoothed importance sampling with the guide of any model/guide pair."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError, check_int_value
from flowvae.core.progress import bar
from flowvae.core.seeds import derive, one_thread, random_state_kept, seeded
from flowvae.data.batch import Batch
from flowvae.evaluation.arviz.versions import TAIL, psis
from flowvae.evaluation.likelihood.importance_weights import check_data, importance_draws, log_mean, parts_of
from flowvae.evaluation.likelihood.trace_sites import Program, SiteRun, read_model, read_program, unmasked, wrapped
from flowvae.guides.automatic.masks import check_sites
from flowvae.inference.check_guide import NarrowGuideWarning, check_same_sites, check_supports, warn_if_narrow
from flowvae.inference.log_density import trace_sites
from flowvae.networks import in_eval_mode

__all__ = [
    "ImportanceSample",
    "NarrowGuideWarning",
    "NoisyParetoKWarning",
    "importance_sample",
    "importance_sample_each",
]

BLOCK = 250  # draws of the guide that share a stream of random numbers
STEADY = 4000  # draws from which the noise of k̂ is small enough for a verdict


class NoisyParetoKWarning(UserWarning):
    """A k̂ is estimated from too few draws to be reliable."""


@dataclass(frozen=True)
class ImportanceSample:
    """S draws of a guide with importance weights, for the whole model or for each of N data points separately.

    Args:
        draws: values of every latent and deterministic site, shape (S, *shape).
        log_joint: log p(data, θ) in nats, (S,); (S, N) if each data point has its own latents.
        log_guide: log q(θ) in nats, same shape.
        log_likelihood: log-likelihood of every observed site in nats, (S, *batch); zero for masked data points.
        counted: for every observed site, whether a data point is not masked, (*batch).
        observed: data of every observed site.
        dims: names of the dimensions of each site's value, except that of the draws.
        seed: random seed of the draws.
    """

    draws: dict[str, Tensor]
    log_joint: Tensor
    log_guide: Tensor
    log_likelihood: dict[str, Tensor]
    counted: dict[str, Tensor]
    observed: dict[str, Tensor]
    dims: dict[str, tuple[str, ...]]
    seed: int

    @property
    def size(self) -> int:
        """The number of draws S."""
        return len(self.log_joint)

    @property
    def log_weight(self) -> Tensor:
        """Log p(data, θ) − log q(θ), shape (S,) or (S, N)."""
        return self.log_joint - self.log_guide

    @cached_property
    def _psis(self) -> tuple[Tensor, Tensor]:
        return psis(self.log_weight)

    @property
    def smoothed(self) -> Tensor:
        """Pareto-smoothed log-weights, (S,) or (S, N), normalized: their exponentials sum to one over the draws."""
        return self._psis[0]

    @property
    def pareto_k(self) -> Tensor:
        """Shape k̂ of the weights' tail, () or (N,)."""
        return self._psis[1]

    @property
    def good_k(self) -> float:
        """Largest k̂ for which S draws suffice: min(1 − 1/log₁₀ S, 0.7) (Vehtari et al. 2024)."""
        return min(1 - 1 / math.log10(self.size), 0.7)

    @property
    def steady(self) -> bool:
        """Whether S is at least 4000, so that k̂ is not mostly noise."""
        return self.size >= STEADY

    @property
    def effective_draws(self) -> Tensor:
        """Effective sample size (Σ w)² / Σ w² of the raw weights, () or (N,)."""
        return self.size / (1 + log_mean(self.log_weight)[1])

    @property
    def log_evidence(self) -> Tensor:
        """Log (1/S) Σ w in nats, () or (N,); its exponential is unbiased for the evidence."""
        return log_mean(self.log_weight)[0]

    @property
    def log_evidence_se(self) -> Tensor:
        """Standard error of `log_evidence`, by the delta method; too small where k̂ is above 0.5."""
        return (log_mean(self.log_weight)[1] / (self.size - 1)).sqrt()

    def resample(self, size: int | None = None, seed: int = 0) -> dict[str, Tensor]:
        """Draw from the posterior by systematic resampling with the smoothed weights, in random order.

        Args:
            size: number of draws; S by default.
            seed: random seed of the draws.

        Returns:
            site → values, shape (size, *shape). Data points with separate weights are resampled separately.
        """
        index = self.resample_index(self.size if size is None else size, seed)
        return {name: self.take(value, index) for name, value in self.draws.items()}

    def resample_index(self, size: int, seed: int = 0) -> Tensor:
        """Indices of the draws that `resample` returns, shape (size,) or (size, N).

        Raises:
            FlowvaeError: for a size below 1.
        """
        if size < 1:
            raise FlowvaeError(f"size = {size}: must be 1 or more draws.")
        weights = self.smoothed.exp().reshape(self.size, -1).T.contiguous()
        with seeded(derive(seed, "resample")):
            start = torch.rand(len(weights), 1, dtype=torch.float64)
            order = torch.rand(len(weights), size).argsort(1)
        comb = (start + torch.arange(size)) / size
        index = torch.searchsorted(weights.cumsum(1), comb).clamp(max=self.size - 1)
        return index.gather(1, order).T.reshape(size, *self.log_weight.shape[1:])

    def take(self, value: Tensor, index: Tensor) -> Tensor:
        """Index values (S, ...) by (size,), or values (S, N, ...) by one index per data point, (size, N)."""
        index = index.to(value.device)
        return value[index] if index.dim() == 1 else value[index, torch.arange(index.shape[1], device=value.device)]

    def __str__(self) -> str:
        k = self.pareto_k
        noise = "" if self.steady else f"; below {STEADY} draws k̂ is itself noisy"
        if k.dim():
            share = (k > self.good_k).double().mean()
            return f"{len(k)} data, {self.size} draws each: k̂ above {self.good_k:.2f} for {share:.1%} of them{noise}"
        verdict = "weights can be trusted" if k <= self.good_k else "weights are not to be trusted"
        return (
            f"k̂ = {k:.2f} from {self.size} draws: {verdict} (limit {self.good_k:.2f}){noise}; "
            f"{self.effective_draws:.0f} effective draws; "
            f"log evidence {self.log_evidence:.3f} ± {self.log_evidence_se:.3f} nats"
        )


@one_thread()
@torch.no_grad()
@in_eval_mode
def importance_sample(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    draws: int = STEADY,
    seed: int = 0,
    chunk: int = BLOCK,
    progress: bool = True,
    **kwargs: Any,
) -> ImportanceSample:
    """Weigh draws of any Pyro guide by the model's joint density.

    Draws are scored together under an outer plate if that gives the same results as one by one on a few draws, and
    otherwise one by one.

    Args:
        model: Pyro model that observes its data.
        guide: Pyro guide with a site for every latent of the model; may be an automatic guide.
        args: arguments of both.
        draws: S.
        seed: random seed of the draws.
        chunk: draws that the model scores at a time; the result does not depend on it.
        progress: whether to show progress bars.
        kwargs: keyword arguments of both.

    Raises:
        FlowvaeError: for fewer than 25 draws, too few to estimate k̂; for a latent that the guide lacks or has in
            another shape; for a guide without a density; for latents that only the model or only the guide masks; under
            `poutine.scale`; for observed NaN; for weights that are NaN, or all zero; for supports that change from
            draw to draw although one of Pyro's guides assumes them to be fixed.

    Warns:
        NarrowGuideWarning: if the guide covers only a part of a latent's support.
        NoisyParetoKWarning: for fewer than 4000 draws.
    """
    if draws < TAIL or chunk < 1:
        raise FlowvaeError(f"draws = {draws}, chunk = {chunk}: k̂ needs {TAIL} draws or more, a chunk 1 or more.")
    if draws < STEADY:
        warnings.warn(
            f"draws = {draws}: below {STEADY} draws k̂ is noisy; a k̂ near 0.7 is not conclusive.",
            NoisyParetoKWarning,
            stacklevel=2,
        )
    with seeded(derive(seed, "read")):
        source = read_program(guide, args, kwargs)  # first, since automatic guides are set up in their first run
        target = read_model(model, args, kwargs, {name: site.value for name, site in source.sites.items()})
        if not target.of("latent"):
            raise FlowvaeError("the model has no latent site: its log evidence is its log-density.")
        lacking = sorted(set(target.of("latent")) - set(source.sites))
        if lacking:
            raise FlowvaeError(f"the guide has no site for {', '.join(lacking)}: give it one for every latent site.")
        if not source.of("latent"):
            raise FlowvaeError("the guide is a point estimate without a density; use another one, such as AutoNormal.")
        for name, site in target.of("latent").items():
            other = source.sites[name]
            if other.shape != site.shape:
                raise FlowvaeError(
                    f"latent {name!r}: of shape {tuple(other.shape)} in the guide and {tuple(site.shape)} in the "
                    "model; must be the same."
                )
            if other.kind == "latent" and other.free != site.free:
                raise FlowvaeError(
                    f"latent {name!r}: its supports in guide and model have {_freedom(other.free)} and "
                    f"{_freedom(site.free)}; their densities cannot be compared. Use a distribution on the same "
                    "support as the model's."
                )
        for program in (source, target):
            program.refuse_scaled()
        check_same_sites(model, guide, args, kwargs)
        check_supports(model, guide, args, kwargs)
        warn_if_narrow(model, guide, args, kwargs)
        check_sites(model, args, kwargs, guide)
        source = source.tried({})
    parts = []
    starts = range(0, draws, BLOCK)
    with bar("draws of the guide", "draw", len(starts) * BLOCK, progress=progress) as shown:
        for number, start in enumerate(starts):
            size = min(BLOCK, draws - start)
            with seeded(derive(seed, "weigh", number)):
                # always a whole block, so that the first draws do not depend on their number
                run = source.run({}, BLOCK, tick=shown.update)
            parts.append(({name: run.values[name][:size] for name in target.of("latent")}, run.total[:size]))
    given = {
        name: wrapped(torch.cat([values[name] for values, _ in parts]), source.sites[name], site)
        for name, site in target.of("latent").items()
    }
    log_guide = torch.cat([total for _, total in parts])
    target = target.tried(given)
    with bar("their density under the model", "draw", draws, progress=progress) as shown:
        run = target.run(given, draws, chunk, shown.update)
    if (run.total - log_guide).isnan().any():
        raise FlowvaeError("some log-weights are NaN: the model cannot score draws of the guide; check their supports.")
    if run.total.isneginf().all():
        raise FlowvaeError(_impossible(target, run))
    return ImportanceSample(
        {name: run.values[name] for name in target.of("latent", "deterministic")},
        run.total,
        log_guide,
        run.pointwise,
        unmasked(run),
        {name: site.value for name, site in target.of("observed").items()},
        {name: site.dims for name, site in target.sites.items()},
        seed,
    )


@torch.no_grad()
@in_eval_mode
def importance_sample_each(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Tensor | Batch,
    draws: int = STEADY,
    seed: int = 0,
    progress: bool = True,
) -> ImportanceSample:
    """Weigh the draws of an amortized guide for each data point separately.

    Args:
        model: Pyro model with any latent sites and one observed site, in one plate of the data.
        guide: Pyro guide with the same latent sites.
        x: data, shape (N, *event shape), or a batch with a condition.
        draws: S, draws per data point.
        seed: random seed of the draws.
        progress: whether to show a progress bar.

    Returns:
        draws of each latent site, (S, N, *event shape), with log-weights (S, N) and a k̂ for each data point, (N,).

    Raises:
        FlowvaeError: for a model of several observed sites, and as `importance_draws`.
    """
    batch = check_data(guide, x)
    check_int_value("draws", draws)
    with bar(f"{draws} draws per data point", "part", parts_of(len(batch), draws), progress=progress) as shown:
        blocks = list(importance_draws(model, guide, batch, draws, seed, tick=shown.update))
    latents = {name: torch.cat([block.latents[name] for block in blocks], dim=1) for name in blocks[0].latents}
    log_likelihood = torch.cat([block.log_likelihood for block in blocks], dim=1)
    log_prior = torch.cat([block.log_prior for block in blocks], dim=1)
    log_guide = torch.cat([block.log_guide for block in blocks], dim=1)
    with random_state_kept():
        trace = trace_sites(model, next(batch.split(1)), {name: value[0, :1] for name, value in latents.items()})
    observed = [name for name in trace.observation_nodes if not trace.nodes[name]["infer"].get("_deterministic")]
    if len(observed) != 1:
        raise FlowvaeError(
            f"observed sites {', '.join(observed) or '(none)'}: must be exactly one. Use "
            "importance_sample or measure_likelihoods."
        )
    (site,) = observed
    data = torch.cat([block.args[0] for block in batch.split(len(batch))])
    dims = {name: _dims(name, value.ndim - 2, "latent", len(latents) == 1) for name, value in latents.items()}
    return ImportanceSample(
        latents,
        log_likelihood + log_prior,
        log_guide,
        {site: log_likelihood},
        {site: torch.ones(len(batch), dtype=torch.bool, device=data.device)},
        {site: data},
        {**dims, site: _dims(site, data.ndim - 1, "feature", True)},
        seed,
    )


def _dims(site: str, number: int, axis: str, alone: bool) -> tuple[str, ...]:
    """Names of the dimensions of a site's value, except that of the draws; the event has `number` of them."""
    return ("datum", axis) if number == 1 and alone else ("datum", *(f"{site}_dim_{place}" for place in range(number)))


def _impossible(target: Program, run: SiteRun) -> str:
    """Explain why every draw has weight zero."""
    for name, value in run.pointwise.items():
        never = int(value.isneginf().all(0).sum())
        if never:
            return (
                f"site {name!r}: {never} of {value[0].numel()} data points have density zero under every draw; compare "
                "them with the support of their distribution."
            )
    return "every draw of the guide has density zero under the model; compare the supports of their sites."


def _freedom(free: int | None) -> str:
    return "no continuous dimensions" if free is None else f"{free} dimension(s)"
