"""Bidirectional Monte Carlo: lower and upper bounds of log p(x) on data simulated from the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.progress import bar
from flowvae.core.seeds import derive, seeded
from flowvae.data.batch import Batch
from flowvae.evaluation.context import EvaluationContext, MeasureResult
from flowvae.evaluation.likelihood.annealed_hmc import PILOTS, AnnealedHMC, AnnealingPath, schedule, sweep
from flowvae.evaluation.likelihood.importance_weights import ROWS, log_mean
from flowvae.evaluation.metric import Metric, mean_metric
from flowvae.evaluation.registry import measure
from flowvae.inference.log_density import latent_nodes
from flowvae.networks import in_eval_mode

__all__ = ["BDMC", "measure_bdmc"]


@dataclass(frozen=True)
class BDMC:
    """Bounds of log p(x) for N simulated data points, in nats.

    The bounds hold in expectation. That of a single data point is violated by b nats with probability at most exp(−b).

    Args:
        x: the data, drawn from the model, shape (N, *event shape).
        lower: AIS from the start to the posterior, shape (N,).
        upper: reverse AIS from the code that generated x, an exact posterior draw, to the start, shape (N,).
        settings: settings of the chains.
    """

    x: Tensor
    lower: Tensor
    upper: Tensor
    settings: AnnealedHMC

    @property
    def gap(self) -> Tensor:
        """Upper − lower, shape (N,): in expectation an upper bound of the error of each."""
        return self.upper - self.lower

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """Means over the simulated data, with their standard errors.

        Args:
            split: name of the simulated data, such as "simulated".
            protocol: identity of the model, seed; size and settings of the chains are added.
        """
        protocol = {**protocol, "simulated": len(self.x), "bdmc": asdict(self.settings)}
        return [
            mean_metric("bdmc_lower", self.lower, "nats per datum", split, protocol),
            mean_metric("bdmc_upper", self.upper, "nats per datum", split, protocol),
            mean_metric("bdmc_gap", self.gap, "nats per datum", split, protocol),
        ]


@in_eval_mode
def measure_bdmc(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    size: int = 64,
    settings: AnnealedHMC | None = None,
    seed: int = 0,
    progress: bool = False,
    c: Tensor | None = None,
) -> BDMC:
    """Bound log p(x) from both sides on data simulated from the model, to assess the accuracy of AIS.

    The code z* that generated x is one exact draw from its posterior. Chains run from it back to the start, and the
    inverse of their mean weight overestimates p(x) as AIS underestimates it. The gap applies to real data only as far
    as simulated data resemble them.

    Args:
        model: Pyro model with any latent sites on all of R^n, in one plate of the data; `model(size=n)`, or
            `model(c=c, size=n)`, simulates and returns n data points.
        guide: Pyro guide with the same sites.
        size: N, number of simulated data points.
        settings: settings of the chains, the same in both directions.
        seed: random seed of data and chains; each block of 64 data points has its own random numbers.
        progress: whether to show a progress bar, and a warning before long work.
        c: conditions of the simulated data, shape (N, C), for a conditional model.

    Raises:
        FlowvaeError: for a size below 1 or different from that of the conditions, a model that does not return what it
            simulates, and as `measure_ais`.

    References:
        Grosse, Ghahramani & Adams (2015), "Sandwiching the marginal likelihood using bidirectional Monte Carlo".
    """
    if size < 1:
        raise FlowvaeError(f"size = {size}: must be 1 or more.")
    if c is not None and len(c) != size:
        raise FlowvaeError(f"size = {size}, but there are {len(c)} conditions c; must be one per data point.")
    settings = settings or AnnealedHMC()
    betas = schedule(settings.temperatures)
    parts = []
    total = 2 * math.ceil(size / ROWS) * settings.temperatures
    with bar(
        f"BDMC, {settings.chains} chains per data point", "temperature", total, progress=progress, announce=True
    ) as work:
        for number, rows in enumerate(torch.arange(size).split(ROWS)):
            with seeded(derive(seed, "bdmc", number)), pyro.validation_enabled(False), torch.no_grad():
                made, values = _simulated(model, len(rows), None if c is None else c[rows.to(c.device)])
                path = AnnealingPath(model, guide, made, settings.start)
                up = sweep(path, path.draw(PILOTS + settings.chains), betas, settings.leapfrog, tick=work.update)
                # the step sizes come from the forward pass and do not depend on z*, so the bound is exact
                codes = path.vector.join(values).expand(settings.chains, -1, -1)
                down = sweep(path, codes, betas[::-1], settings.leapfrog, up.steps.flip(0), work.update)
            parts.append((made.args[0], log_mean(up.log_weight)[0], -log_mean(down.log_weight)[0]))
    x, lower, upper = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return BDMC(x, lower, upper, settings)


def _simulated(model: Callable[..., Any], size: int, c: Tensor | None) -> tuple[Batch, dict[str, Tensor]]:
    """Simulate data points; also return the values of the latent sites, each of shape (1, N, *event).

    Raises:
        FlowvaeError: for a model that does not return its data, or whose sites differ when it observes them.
    """
    simulated = poutine.trace(model).get_trace(size=size, **({} if c is None else {"c": c}))
    x = simulated.nodes["_RETURN"]["value"]
    if not isinstance(x, Tensor) or not x.ndim or len(x) != size:
        raise FlowvaeError(
            f"model(size={size}) returns {shown(x)}; must return the simulated data, shape (N, *event shape)."
        )
    batch = Batch(x, c)
    observing = poutine.trace(poutine.replay(model, trace=simulated)).get_trace(*batch.args)
    for name, node in observing.nodes.items():
        if node["type"] != "sample" or site_is_subsample(node) or node["infer"].get("_deterministic"):
            continue
        if name not in simulated.nodes or not torch.equal(node["value"], simulated.nodes[name]["value"]):
            raise FlowvaeError(
                f"site {name!r}: model(size=…) and model(x) differ at this site, so simulated data have no exact "
                "posterior draw. Use measure_ais, which needs none."
            )
    return batch, {name: node["value"].unsqueeze(0) for name, node in latent_nodes(observing).items()}


@measure("bdmc")
def _bdmc(context: EvaluationContext) -> MeasureResult:
    """Lower and upper bounds of log p(x) on simulated data, which bound the error of AIS."""
    effort = context.effort
    c = context.batch(effort.rows).c  # of real data, for a conditional model
    size = effort.rows if c is None else len(c)
    result = measure_bdmc(context.model, context.guide, size, effort.tempering, c=c, **context.options)
    return MeasureResult(result.metrics("simulated", {**context.protocol, "seed": context.seed, **context.efforts}))
