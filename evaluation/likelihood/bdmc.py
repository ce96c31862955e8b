"""Bidirectional Monte Carlo: log p(x) between two bounds, on data that the model made itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.likelihood.annealed_hmc import PILOTS, AnnealedHMC, AnnealingPath, schedule, sweep
from flowvae.evaluation.likelihood.importance_weights import ROWS, log_mean
from flowvae.evaluation.metric import Metric, mean_metric
from flowvae.evaluation.progress import Bar
from flowvae.networks import in_eval_mode

__all__ = ["BDMC", "measure_bdmc"]


@dataclass(frozen=True)
class BDMC:
    """Bounds of log p(x) for N simulated data, in nats.

    Each holds in expectation; a single datum's may be on the wrong side, by b nats with a probability of at most
    exp(−b).

    Args:
        x: the data, drawn from the model, shape (N, D).
        lower: AIS from the start to the posterior, shape (N,).
        upper: AIS from the exact posterior draw that made x back to the start, shape (N,).
        settings: of the chains.
    """

    x: Tensor
    lower: Tensor
    upper: Tensor
    settings: AnnealedHMC

    @property
    def gap(self) -> Tensor:
        """Upper − lower, shape (N,): in expectation an upper bound of the error of either."""
        return self.upper - self.lower

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """Means over the simulated data, with their standard errors.

        Args:
            split: what to call the simulated data, such as "simulated".
            protocol: what made the model, seed; size and settings of the chains are added.
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
    guide: Any,
    size: int = 64,
    settings: AnnealedHMC | None = None,
    seed: int = 0,
    progress: bool = False,
) -> BDMC:
    """Bound log p(x) from both sides on data simulated from the model: how far to trust AIS with these settings.

    The code z* that made x is one exact draw of its posterior, from which chains run back to the start: the
    inverse of their mean weight overestimates p(x) as AIS underestimates it. What the gap says about real data
    holds as far as the model's own data resemble them.

    Args:
        model: Pyro model with sites "z" and "x" in one plate; model(None, size) simulates.
        guide: has `posterior(x)`.
        size: N, how many data to simulate.
        settings: of the chains, of the same number in both directions.
        seed: decides data and chains; random numbers belong to blocks of 64 data.
        progress: whether to show a progress bar, and how long it takes where that is long.

    Raises:
        FlowvaeError: for a size below 1, non-finite draws of the guide, or densities that are NaN.

    References:
        Grosse, Ghahramani & Adams (2015), "Sandwiching the marginal likelihood using bidirectional Monte Carlo".
    """
    if size < 1:
        raise FlowvaeError(f"size = {size}: must be 1 or more.")
    settings = settings or AnnealedHMC()
    betas = schedule(settings.temperatures)
    parts = []
    total = 2 * math.ceil(size / ROWS) * settings.temperatures
    with Bar(total, f"BDMC, {settings.chains} chains a datum", "temperature", progress) as bar:
        for number, rows in enumerate(torch.arange(size).split(ROWS)):
            with seeded(derive(seed, "bdmc", number)), pyro.validation_enabled(False), torch.no_grad():
                simulated = poutine.trace(model).get_trace(None, len(rows)).nodes
                made, code = simulated["x"]["value"], simulated["z"]["value"]
                path = AnnealingPath(model, guide, made, settings.start)
                up = sweep(path, path.draw(PILOTS + settings.chains), betas, settings.leapfrog, tick=bar.update)
                # step sizes of the way up know nothing of z*, as exactness demands
                codes = code.expand(settings.chains, *code.shape)
                down = sweep(path, codes, betas[::-1], settings.leapfrog, up.steps.flip(0), bar.update)
            parts.append((made, log_mean(up.log_weight)[0], -log_mean(down.log_weight)[0]))
    x, lower, upper = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    return BDMC(x, lower, upper, settings)
