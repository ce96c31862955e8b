"""Simulation-based calibration: do parameters drawn from the prior rank uniformly among the guide's draws?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pyro
import torch
from pyro import poutine
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from flowvae.core.errors import FlowvaeError
from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.arviz.versions import from_groups
from flowvae.evaluation.calibration.holm import holm
from flowvae.evaluation.likelihood.trace_sites import Program, element, read_model, read_program, simulator
from flowvae.evaluation.metric import Metric
from flowvae.guides.automatic.masks import counted
from flowvae.networks import eval_mode, in_eval_mode

__all__ = ["Calibration", "calibrate", "calibrate_fits", "ecdf_band"]

BLOCK = 64  # simulated data that share a stream of random numbers
BANDS = 4000  # simulations of uniform ranks that a band rests on
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Calibration:
    """Ranks of M simulated parameters among L draws of the guide for the data simulated with them.

    Uniform on 0..L if the guide is exact. ∪-shaped: the guide is too narrow; ∩-shaped: too wide; leaning to the right:
    its values are too low. Ranks are of one dimension at a time: a guide may pass and have its correlations wrong.

    Args:
        ranks: shape (M, D), whole numbers of 0..L.
        draws: L.
        names: of the D dimensions.

    References:
        Talts et al. (2018), "Validating Bayesian inference algorithms with simulation-based calibration";
        Yao et al. (2018), "Yes, but did it work? Evaluating variational inference".
    """

    ranks: Array
    draws: int
    names: tuple[str, ...]

    def histogram(self, bins: int = 20) -> tuple[Array, Array]:
        """Counts (D, bins) of ranks, and how many are expected in each bin, (bins,).

        Raises:
            FlowvaeError: for fewer than two bins, or more than ranks.
        """
        if not 2 <= bins <= self.draws + 1:
            raise FlowvaeError(f"bins = {bins}: must be 2 or more, and not above draws + 1 = {self.draws + 1}.")
        place = np.arange(self.draws + 1) * bins // (self.draws + 1)
        counts = np.stack([np.bincount(place[column], minlength=bins) for column in self.ranks.T])
        return counts, len(self.ranks) * np.bincount(place, minlength=bins) / (self.draws + 1)

    def uniform(self, bins: int = 20) -> Array:
        """p-value of the χ² test of uniform ranks for each dimension, (D,)."""
        counts, expected = self.histogram(bins)
        return stats.chi2.sf(((counts - expected) ** 2 / expected).sum(1), bins - 1)

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """The least p-value over the dimensions, and the bias of the dimension that has most.

        Args:
            split: what to call the simulated data, such as "simulated".
            protocol: what made the model, seed; the numbers of simulations and draws are added.
        """
        protocol = {**protocol, "simulated": len(self.ranks), "draws": self.draws}
        lean = self.bias()
        worst = int(np.abs(lean).argmax())
        se = self.ranks[:, worst].std() / self.draws / len(self.ranks) ** 0.5
        return [
            Metric("calibration_p", holm(self.uniform()).min().item(), None, "p after Holm", split, protocol),
            Metric("calibration_bias", lean[worst].item(), se.item(), "mean of rank / draws − 1/2", split, protocol),
        ]

    def symmetric(self) -> Array:
        """p-value of Wilcoxon's signed-rank test that ranks are symmetric about L/2 for each dimension, (D,).

        VSBC asks this of a guide that is known to be too narrow: its mean may be right all the same. The paper compares
        p with 1 − p by a two-sample test, which takes them for independent; the signed ranks need no such thing.
        """
        centred = self.ranks - self.draws / 2
        return np.array([stats.wilcoxon(column, method="asymptotic").pvalue for column in centred.T])

    def bias(self) -> Array:
        """Mean rank / L − ½, (D,): above zero where the guide's values are too low."""
        return self.ranks.mean(0) / self.draws - 0.5

    def ecdf_difference(self) -> tuple[Array, Array]:
        """The points u = 1/(L+1) .. L/(L+1), and the ranks' distribution function minus u there, (D, L)."""
        grid = np.arange(1, self.draws + 1)
        below = np.stack([np.searchsorted(np.sort(column), grid, side="left") for column in self.ranks.T])
        u = grid / (self.draws + 1)
        return u, below / len(self.ranks) - u

    def table(self, bins: int = 20) -> pd.DataFrame:
        """Every dimension's p-values, as they are and with Holm's correction over the dimensions, and its bias."""
        uniform, symmetric = self.uniform(bins), self.symmetric()
        return pd.DataFrame(
            {
                "uniform_p": uniform,
                "uniform_p_holm": holm(uniform),
                "symmetric_p": symmetric,
                "symmetric_p_holm": holm(symmetric),
                "bias": self.bias(),
            },
            index=pd.Index(self.names, name="dimension"),
        )

    def to_arviz(self) -> Any:
        """(rank + ½) / (L + 1) in the group "prior_sbc", where `az.plot_ecdf_pit` of ArviZ 1.x looks for it.

        One chain, M draws, and one variable for each dimension.
        """
        values = (self.ranks + 0.5) / (self.draws + 1)
        return from_groups({"prior_sbc": {n: v[None] for n, v in zip(self.names, values.T, strict=True)}}, {})


@torch.no_grad()
@in_eval_mode
def calibrate(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    simulations: int = 1000,
    draws: int = 99,
    seed: int = 0,
) -> Calibration:
    """Calibration of an amortized guide on data that its own model generates.

    Args:
        model: Pyro model called as `model(None, size)` to generate, with sites "z" and "x" in one plate.
        guide: Pyro guide called as `guide(x)`, with site "z".
        simulations: M.
        draws: L; with L + 1 a multiple of the bins, all bins are alike.
        seed: decides simulations and draws.
    """
    _check(simulations, draws)
    ranks = []
    for number, start in enumerate(range(0, simulations, BLOCK)):
        with seeded(derive(seed, "calibrate", number)):
            nodes = poutine.trace(model).get_trace(None, BLOCK).nodes  # whole blocks: more M, the same first ones
            x, truth = nodes["x"]["value"], nodes["z"]["value"]
            inner = poutine.trace(pyro.plate("draws", draws, dim=-2)(guide)).get_trace(x)
            z = inner.nodes["z"]["value"].expand(draws, *truth.shape)
            ranks.append(_rank(z, truth)[: simulations - start])
    value = torch.cat(ranks)
    return Calibration(value.numpy(force=True), draws, tuple(f"z[{j}]" for j in range(value.shape[1])))


def calibrate_fits(
    model: Callable[..., Any],
    fit: Callable[[Callable[..., Any]], Callable[..., Any]],
    *args: Any,
    simulations: int = 200,
    draws: int = 99,
    seed: int = 0,
    progress: bool = False,
    **kwargs: Any,
) -> Calibration:
    """Calibration of a procedure that fits a guide to one data set: it is fitted anew to every simulation.

    Args:
        model: Pyro model; whatever it observes is simulated.
        fit: from the model that observes a simulated data set to a guide; both take `args`. It starts from an empty
            parameter store, which is restored afterwards.
        args: arguments of the model.
        simulations: M.
        draws: L.
        seed: decides simulations, fits and draws.
        progress: whether to show a progress bar.
        kwargs: named arguments of the model.

    Raises:
        FlowvaeError: for a model whose draws are not from its own joint density: with a masked latent, a `factor`, or
            under `poutine.scale`; for a model without latents, or that simulates values which are not
            finite; for a guide that lacks one of them.
    """
    _check(simulations, draws)
    free = simulator(model)
    with seeded(derive(seed, "read")), pyro.get_param_store().scope(), torch.no_grad(), eval_mode(model):
        _check_simulator(read_model(model, args, kwargs), _simulated(free, args, kwargs))
    ranks = []
    for number in tqdm(range(simulations), desc="fits", unit="fit", disable=None if progress else True):
        with seeded(derive(seed, "calibrate", number)), pyro.get_param_store().scope():
            with torch.no_grad(), eval_mode(model):
                program = read_model(model, args, kwargs)
                nodes = _simulated(free, args, kwargs)
            data = {name: nodes[name]["value"] for name in program.of("observed")}
            guide = fit(poutine.condition(free, data=data))
            latent = list(program.of("latent"))
            with torch.no_grad(), eval_mode(guide):
                source = read_program(guide, args, kwargs)
                lacking = sorted(set(latent) - set(source.sites))
                if lacking:
                    raise FlowvaeError(f"the fitted guide has no site for {', '.join(lacking)}: give it one.")
                run = source.tried({}).run({}, draws)
            z = torch.cat([run.values[name].reshape(draws, -1) for name in latent], dim=1)
            truth = torch.cat([nodes[name]["value"].reshape(-1) for name in latent])
            ranks.append(_rank(z, truth))
    names = tuple(element(name, index) for name in latent for index in np.ndindex(*program.sites[name].shape))
    return Calibration(torch.stack(ranks).numpy(force=True), draws, names)


@lru_cache(maxsize=8)
def ecdf_band(simulations: int, draws: int, level: float = 0.95) -> tuple[Array, Array]:
    """Lower and upper bounds (L,) that `ecdf_difference` of M uniform ranks keeps within, all at a time, at `level`.

    Each point's bounds are quantiles of a binomial; how far out these must lie for all points together is simulated
    (with a seed of its own).

    References:
        Säilynoja, Bürkner & Vehtari (2022), "Graphical test for discrete uniformity", section 2.
    """
    rng = np.random.default_rng(0)
    u = np.arange(1, draws + 1) / (draws + 1)
    counts = rng.multinomial(simulations, np.full(draws + 1, 1 / (draws + 1)), size=BANDS).cumsum(1)[:, :-1]
    tails = np.minimum(stats.binom.cdf(counts, simulations, u), stats.binom.sf(counts - 1, simulations, u))
    tail = np.quantile(tails.min(1), 1 - level)
    lower, upper = stats.binom.ppf(tail, simulations, u), stats.binom.isf(tail, simulations, u)
    return lower / simulations - u, upper / simulations - u


def _rank(draws: Tensor, truth: Tensor) -> Tensor:
    """How many of the draws (L, ...) lie below the truth (...); ties at random."""
    below, ties = (draws < truth).sum(0), (draws == truth).sum(0)
    return below + (torch.rand(ties.shape, device=ties.device) * (ties + 1)).long()


def _check(simulations: int, draws: int) -> None:
    if simulations < 1 or draws < 1:
        raise FlowvaeError(f"simulations = {simulations}, draws = {draws}: must both be 1 or more.")


def _simulated(model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The sites of a draw from a model, in which a scale, say, may underflow to zero."""
    with pyro.validation_enabled(False):
        nodes: Mapping[str, Any] = poutine.trace(model).get_trace(*args, **kwargs).nodes
    for name, node in nodes.items():
        if node["type"] == "sample" and isinstance(node["value"], Tensor) and not node["value"].isfinite().all():
            raise FlowvaeError(f"site {name!r}: the model simulates values that are not finite; give it another prior.")
    return nodes


def _check_simulator(program: Program, nodes: Mapping[str, Any]) -> None:
    """Refuse a model that does not draw from its own joint density."""
    program.refuse_scaled()
    if not program.of("latent"):
        raise FlowvaeError("the model has no latent site: there is nothing to calibrate.")
    improper = [name for name in program.of("latent") if not counted(nodes[name]).all()]
    if improper:
        raise FlowvaeError(
            f"latent {', '.join(improper)}: masked, so that its draws are not from its prior. Give it a proper prior; "
            "for missing data, observe under poutine.mask and without obs_mask."
        )
    factors = list(program.of("factor"))
    if factors:
        raise FlowvaeError(
            f"pyro.factor {', '.join(factors)} changes the model's density, but not its draws: ranks would not be "
            "uniform for the exact posterior. Write it as a prior or an observed site."
        )
