"""Importance weights of any model/guide pair, Pareto smoothed: how far a guide is to be trusted, and draws mended."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.seeds import derive, one_thread, seeded
from flowvae.evaluation.arviz.versions import TAIL, psis
from flowvae.evaluation.likelihood.importance_weights import importance_draws, log_mean
from flowvae.evaluation.likelihood.trace_sites import Program, SiteRun, read_model, read_program, unmasked, wrapped
from flowvae.guides.automatic.masks import check_sites
from flowvae.inference.check_guide import NarrowGuideWarning, check_same_sites, check_supports, warn_if_narrow
from flowvae.networks import in_eval_mode

__all__ = [
    "ImportanceSample",
    "NarrowGuideWarning",
    "NoisyParetoKWarning",
    "importance_sample",
    "importance_sample_each",
]

BLOCK = 250  # draws of the guide that share a stream of random numbers
STEADY = 4000  # draws from which k̂ is steady enough for a verdict


class NoisyParetoKWarning(UserWarning):
    """A k̂ comes from too few draws to be taken at its word."""


@dataclass(frozen=True)
class ImportanceSample:
    """S draws of a guide with their importance weights: of the whole model, or of each of N data on its own.

    Args:
        draws: values of every latent and deterministic site, shape (S, *shape).
        log_joint: log p(data, θ) in nats, (S,); with data of their own latents (S, N).
        log_guide: log q(θ) in nats, of the same shape.
        log_likelihood: of every observed site in nats, (S, *batch); zero where a mask leaves a datum out.
        counted: which data of every observed site are not left out by a mask, (*batch).
        observed: data of every observed site.
        dims: names of the dimensions of each site's value, without that of the draws.
        seed: what decided the draws.
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
        """S."""
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
        """Pareto smoothed log-weights; their exponentials sum to one over the draws; (S,) or (S, N)."""
        return self._psis[0]

    @property
    def pareto_k(self) -> Tensor:
        """Shape k̂ of the weights' tail, () or (N,)."""
        return self._psis[1]

    @property
    def good_k(self) -> float:
        """The largest k̂ with which S draws are enough: min(1 − 1/log₁₀ S, 0.7) (Vehtari et al. 2024)."""
        return min(1 - 1 / math.log10(self.size), 0.7)

    @property
    def steady(self) -> bool:
        """Whether S is large enough (4000) for k̂ itself not to be mostly noise."""
        return self.size >= STEADY

    @property
    def effective_draws(self) -> Tensor:
        """(Σ w)² / Σ w² of the raw weights, () or (N,)."""
        return self.size / (1 + log_mean(self.log_weight)[1])

    @property
    def log_evidence(self) -> Tensor:
        """Log (1/S) Σ w in nats, () or (N,); its exponential is unbiased."""
        return log_mean(self.log_weight)[0]

    @property
    def log_evidence_se(self) -> Tensor:
        """Standard error of `log_evidence`, by the delta method; too small where k̂ is above 0.5."""
        return (log_mean(self.log_weight)[1] / (self.size - 1)).sqrt()

    def resample(self, size: int | None = None, seed: int = 0) -> dict[str, Tensor]:
        """Draws from the posterior, by systematic resampling with the smoothed weights, in random order.

        Args:
            size: how many; S by default.
            seed: decides them.

        Returns:
            site → values, of shape (size, *shape). Where data have weights of their own, each is resampled on its own.
        """
        index = self.resample_index(self.size if size is None else size, seed)
        return {name: self.take(value, index) for name, value in self.draws.items()}

    def resample_index(self, size: int, seed: int = 0) -> Tensor:
        """Which draws `resample` takes, shape (size,) or (size, N).

        Raises:
            FlowvaeError: for fewer than one.
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
        """Of values (S, ...) those of an index (size,); of (S, N, ...) those of each datum's own index (size, N)."""
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
    **kwargs: Any,
) -> ImportanceSample:
    """Weigh draws of any Pyro guide by the model's joint density.

    Many draws are scored in one run under an outer plate where that gives the same as one by one, which is tried on
    a few; else one by one.

    Args:
        model: Pyro model; what it observes is its data.
        guide: Pyro guide with a site for every latent of the model; automatic guides too.
        args: arguments of both.
        draws: S.
        seed: decides the draws.
        chunk: draws that the model scores at a time; the result does not depend on it.
        kwargs: named arguments of both.

    Raises:
        FlowvaeError: for fewer than 25 draws, of which no k̂ can be had; for a latent that the guide lacks, or has
            in another shape; for a guide without a density; for latents masked on one side alone; under
            `poutine.scale`; for observed NaN; for weights that are not a number, or all zero; for supports that one of
            Pyro's guides takes to be fixed and that change.

    Warns:
        NarrowGuideWarning: if the guide draws from a part of a latent's support only.
    """
    if draws < TAIL or chunk < 1:
        raise FlowvaeError(f"draws = {draws}, chunk = {chunk}: k̂ needs {TAIL} draws or more, a chunk 1 or more.")
    if draws < STEADY:
        warnings.warn(
            f"draws = {draws}: below {STEADY} draws k̂ is noisy; do not take a k̂ near 0.7 at its word.",
            NoisyParetoKWarning,
            stacklevel=2,
        )
    with seeded(derive(seed, "read")):
        source = read_program(guide, args, kwargs)  # first: automatic guides set themselves up at their first run
        target = read_model(model, args, kwargs, {name: site.value for name, site in source.sites.items()})
        if not target.of("latent"):
            raise FlowvaeError("the model has no latent site: its log evidence is its log-density.")
        lacking = sorted(set(target.of("latent")) - set(source.sites))
        if lacking:
            raise FlowvaeError(f"the guide has no site for {', '.join(lacking)}: give it one for every latent site.")
        if not source.of("latent"):
            raise FlowvaeError("the guide is a point, without a density: weights need one, such as AutoNormal's.")
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
                    f"{_freedom(site.free)}; their densities cannot be compared. Take a distribution on the same "
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
    for number, start in enumerate(range(0, draws, BLOCK)):
        size = min(BLOCK, draws - start)
        with seeded(derive(seed, "weigh", number)):
            # a whole block, so that the first draws of many are the draws of a few
            run = source.run({}, BLOCK)
        parts.append(({name: run.values[name][:size] for name in target.of("latent")}, run.total[:size]))
    given = {
        name: wrapped(torch.cat([values[name] for values, _ in parts]), source.sites[name], site)
        for name, site in target.of("latent").items()
    }
    log_guide = torch.cat([total for _, total in parts])
    run = target.tried(given).run(given, draws, chunk)
    if (run.total - log_guide).isnan().any():
        raise FlowvaeError("log-weights that are not a number: the guide draws values that the model cannot score.")
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


def importance_sample_each(
    model: Callable[..., Any], guide: Callable[..., Any], x: Tensor, draws: int = STEADY, seed: int = 0
) -> ImportanceSample:
    """Weigh the draws of an amortized guide for each datum on its own.

    Args:
        model: Pyro model with sites "z" and "x" in one plate.
        guide: Pyro guide with site "z".
        x: data, shape (N, D).
        draws: S a datum.
        seed: decides them.

    Returns:
        draws of z, (S, N, latent), with log-weights (S, N) and a k̂ for each datum, (N,).
    """
    blocks = list(importance_draws(model, guide, x, draws, seed))
    code = torch.cat([block.code for block in blocks], dim=1)
    log_likelihood = torch.cat([block.log_likelihood for block in blocks], dim=1)
    log_prior = torch.cat([block.log_prior for block in blocks], dim=1)
    log_guide = torch.cat([block.log_guide for block in blocks], dim=1)
    return ImportanceSample(
        {"z": code},
        log_likelihood + log_prior,
        log_guide,
        {"x": log_likelihood},
        {"x": torch.ones(len(x), dtype=torch.bool, device=x.device)},
        {"x": x},
        {"z": ("datum", "latent"), "x": ("datum", "feature")},
        seed,
    )


def _impossible(target: Program, run: SiteRun) -> str:
    """Why every draw has weight zero."""
    for name, value in run.pointwise.items():
        never = int(value.isneginf().all(0).sum())
        if never:
            return (
                f"site {name!r}: {never} of {value[0].numel()} data are impossible under every draw; compare them with "
                "the support of their distribution."
            )
    return "no draw of the guide is possible under the model: compare the supports of their sites."


def _freedom(free: int | None) -> str:
    return "no continuous dimensions" if free is None else f"{free} dimension(s)"
