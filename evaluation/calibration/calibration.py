"""Simulation-based calibration: ranks of parameters drawn from the prior among draws of the guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.progress import bar
from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.arviz.versions import from_groups
from flowvae.evaluation.calibration.holm import holm
from flowvae.evaluation.context import EvaluationContext, MeasureResult
from flowvae.evaluation.likelihood.trace_sites import Program, element, read_model, read_program, simulator
from flowvae.evaluation.metric import Metric
from flowvae.evaluation.registry import measure
from flowvae.guides.automatic.masks import counted
from flowvae.networks import eval_mode, in_eval_mode

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Calibration", "calibrate", "calibrate_fits", "ecdf_band"]

BLOCK = 64  # simulated data points that share a stream of random numbers
BANDS = 4000  # simulations of uniform ranks for a band
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Calibration:
    """Ranks of M simulated parameters among L draws of the guide given the data simulated with them.

    Ranks are uniform on 0..L if the guide is exact. A ∪-shaped histogram means that the guide is too narrow, ∩-shaped
    too wide, and increasing that its values are too low. Each dimension is ranked separately, so correlations are not
    tested.

    Args:
        ranks: integers from 0 to L, shape (M, D).
        draws: L.
        names: names of the D dimensions.

    References:
        Talts et al. (2018), "Validating Bayesian inference algorithms with simulation-based calibration";
        Yao et al. (2018), "Yes, but did it work? Evaluating variational inference".
    """

    ranks: Array
    draws: int
    names: tuple[str, ...]

    def histogram(self, bins: int = 20) -> tuple[Array, Array]:
        """Count ranks, (D, bins), and return the expected count of each bin, (bins,).

        Raises:
            FlowvaeError: for fewer than two bins, or more than draws + 1.
        """
        if not 2 <= bins <= self.draws + 1:
            raise FlowvaeError(f"bins = {bins}: must be from 2 to draws + 1 = {self.draws + 1}.")
        place = np.arange(self.draws + 1) * bins // (self.draws + 1)
        counts = np.stack([np.bincount(place[column], minlength=bins) for column in self.ranks.T])
        return counts, len(self.ranks) * np.bincount(place, minlength=bins) / (self.draws + 1)

    def uniform(self, bins: int = 20) -> Array:
        """Compute the p-value of the χ² test of uniform ranks for each dimension, (D,)."""
        from scipy import stats

        counts, expected = self.histogram(bins)
        return stats.chi2.sf(((counts - expected) ** 2 / expected).sum(1), bins - 1)

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """Smallest p-value, with Holm's correction, and largest bias over the dimensions.

        Args:
            split: name of the simulated data, such as "simulated".
            protocol: identity of the model, seed; the numbers of simulations and draws are added.
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
        """Compute the p-value of Wilcoxon's signed-rank test of symmetry about L/2 for each dimension, (D,).

        VSBC uses symmetry to test the mean of a guide that is known to be too narrow. The paper compares p with 1 − p
        by a two-sample test, which assumes that they are independent; signed ranks do not need this assumption.
        """
        from scipy import stats

        centred = self.ranks - self.draws / 2
        return np.array([stats.wilcoxon(column, method="asymptotic").pvalue for column in centred.T])

    def bias(self) -> Array:
        """Mean rank / L − ½, (D,): positive if the guide's values are too low."""
        return self.ranks.mean(0) / self.draws - 0.5

    def ecdf_difference(self) -> tuple[Array, Array]:
        """Points u = 1/(L+1) .. L/(L+1), and the distribution function of the ranks minus u there, (D, L)."""
        grid = np.arange(1, self.draws + 1)
        below = np.stack([np.searchsorted(np.sort(column), grid, side="left") for column in self.ranks.T])
        u = grid / (self.draws + 1)
        return u, below / len(self.ranks) - u

    def table(self, bins: int = 20) -> pd.DataFrame:
        """Table of the dimensions: p-values, without and with Holm's correction over the dimensions, and bias."""
        import pandas as pd

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
        """Export (rank + ½) / (L + 1) in the group "prior_sbc", as `az.plot_ecdf_pit` of ArviZ 1.x expects it.

        It has one chain, M draws, and one variable per dimension.
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
    c: Tensor | None = None,
    progress: bool = False,
) -> Calibration:
    """Compute the calibration of an amortized guide on data simulated from its model.

    Args:
        model: Pyro model called as `model(size=n)` to generate, with sites "z" and "x" in one plate.
        guide: Pyro guide called as `guide(x)`, with site "z".
        simulations: M.
        draws: L; all bins are equal if L + 1 is a multiple of their number.
        seed: random seed of simulations and draws.
        c: conditions (N, C) of a conditional model, which the simulations use in turn.
        progress: whether to show a progress bar.

    Raises:
        FlowvaeError: for fewer than one simulation or draw.
    """
    _check(simulations, draws)
    ranks = []
    starts = range(0, simulations, BLOCK)
    for number, start in enumerate(bar("simulations", "block", len(starts), starts, progress)):
        with seeded(derive(seed, "calibrate", number)):
            # whole blocks, so that the first simulations do not depend on M
            given = () if c is None else (c[torch.arange(start, start + BLOCK, device=c.device) % len(c)],)
            nodes = poutine.trace(model).get_trace(*(None, *given) if given else (), size=BLOCK).nodes
            x, truth = nodes["x"]["value"], nodes["z"]["value"]
            inner = poutine.trace(pyro.plate("draws", draws, dim=-2)(guide)).get_trace(x, *given)
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
    """Compute the calibration of a fitting procedure, which fits a new guide to every simulated data set.

    Args:
        model: Pyro model; its observed sites are simulated.
        fit: function of the model conditioned on a simulated data set that returns a guide; both take `args`. It starts
            from an empty parameter store, and the previous store is restored afterwards.
        args: arguments of the model.
        simulations: M.
        draws: L.
        seed: random seed of simulations, fits and draws.
        progress: whether to show a progress bar.
        kwargs: keyword arguments of the model.

    Raises:
        FlowvaeError: for fewer than one simulation or draw; for a model whose draws do not follow its joint density:
            with a masked latent, a `factor` or `poutine.scale`; for a model without latents, or that simulates values
            that are not finite; for a guide that lacks a latent.
    """
    _check(simulations, draws)
    free = simulator(model)
    with seeded(derive(seed, "read")), pyro.get_param_store().scope(), torch.no_grad(), eval_mode(model):
        _check_simulator(read_model(model, args, kwargs), _simulated(free, args, kwargs))
    ranks = []
    for number in bar("fits", "fit", simulations, range(simulations), progress):
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
    """Compute simultaneous bounds (L,) of `ecdf_difference` for M uniform ranks, at coverage `level`.

    Pointwise bounds are binomial quantiles. Their level is chosen by simulation with a fixed seed, so that all points
    together are covered with probability `level`.

    References:
        Säilynoja, Bürkner & Vehtari (2022), "Graphical test for discrete uniformity", section 2.
    """
    from scipy import stats

    rng = np.random.default_rng(0)
    u = np.arange(1, draws + 1) / (draws + 1)
    counts = rng.multinomial(simulations, np.full(draws + 1, 1 / (draws + 1)), size=BANDS).cumsum(1)[:, :-1]
    tails = np.minimum(stats.binom.cdf(counts, simulations, u), stats.binom.sf(counts - 1, simulations, u))
    tail = np.quantile(tails.min(1), 1 - level)
    lower, upper = stats.binom.ppf(tail, simulations, u), stats.binom.isf(tail, simulations, u)
    return lower / simulations - u, upper / simulations - u


def _rank(draws: Tensor, truth: Tensor) -> Tensor:
    """Number of draws (L, ...) below the truth (...), with random ties."""
    below, ties = (draws < truth).sum(0), (draws == truth).sum(0)
    return below + (torch.rand(ties.shape, device=ties.device) * (ties + 1)).long()


def _check(simulations: int, draws: int) -> None:
    if simulations < 1 or draws < 1:
        raise FlowvaeError(f"simulations = {simulations}, draws = {draws}: must both be 1 or more.")


def _simulated(model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sites of a draw from a model, checked to be finite; a scale, for example, may underflow to zero."""
    with pyro.validation_enabled(False):
        nodes: Mapping[str, Any] = poutine.trace(model).get_trace(*args, **kwargs).nodes
    for name, node in nodes.items():
        if node["type"] == "sample" and isinstance(node["value"], Tensor) and not node["value"].isfinite().all():
            raise FlowvaeError(f"site {name!r}: the model simulates values that are not finite; use a narrower prior.")
    return nodes


def _check_simulator(program: Program, nodes: Mapping[str, Any]) -> None:
    """Check that the draws of a model follow its joint density."""
    program.refuse_scaled()
    if not program.of("latent"):
        raise FlowvaeError("the model has no latent site, so there is nothing to calibrate.")
    improper = [name for name in program.of("latent") if not counted(nodes[name]).all()]
    if improper:
        raise FlowvaeError(
            f"latent {', '.join(improper)}: masked, so its draws do not follow its density. Use a proper prior; "
            "for missing data, observe under poutine.mask, without obs_mask."
        )
    factors = list(program.of("factor"))
    if factors:
        raise FlowvaeError(
            f"pyro.factor {', '.join(factors)} changes the model's density, but not its draws: ranks would not be "
            "uniform for the exact posterior. Write it as a prior or an observed site."
        )


@measure("calibration", figures=("calibration",))
def _simulation_based(context: EvaluationContext) -> MeasureResult:
    """Simulation-based calibration of the guide on data simulated from the model."""
    from flowvae.evaluation.figures.diagnostic_plots import plot_calibration

    result = calibrate(context.model, context.guide, c=context.batch().c, **context.options)
    metrics = result.metrics("simulated", {**context.protocol, "seed": context.seed})
    return MeasureResult(metrics, {"calibration": lambda: plot_calibration(result)})
