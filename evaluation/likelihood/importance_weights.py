"""Importance weights of a model/guide pair, datum by datum: what every likelihood measure is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from flowvae.core.errors import FlowvaeError, check_int_value, nearest, shown
from flowvae.core.memory import check_memory
from flowvae.core.seeds import derive, random_state_kept, seeded
from flowvae.evaluation.likelihood.trace_sites import is_scaled, refuse_scaled
from flowvae.guides import AmortizedGuide
from flowvae.inference import MODES, Replay
from flowvae.inference.not_finite import broken_tensor, extreme_value
from flowvae.models import VAE
from flowvae.networks import check_rows, eval_mode

__all__ = ["COMPILE", "Draws", "check_data", "check_draws", "importance_draws", "log_mean", "parts_of"]

ROWS = 64  # data a block: random numbers belong to a block, so no result depends on what fits into memory
COMPILE = ("none", *MODES)
DRAWS = 250  # draws that are in memory at a time
LIKE = 1e-2  # by what share log-densities of the same code may differ; some solvers reach no more


@dataclass(frozen=True)
class Draws:
    """Draws from the guide for a block of B data, with their log-densities in nats, shape (S, B).

    Args:
        code: z, shape (S, B, latent).
        log_likelihood: log p(x | z).
        log_prior: log p(z).
        log_guide: log q(z | x).
    """

    code: Tensor
    log_likelihood: Tensor
    log_prior: Tensor
    log_guide: Tensor

    @property
    def log_weight(self) -> Tensor:
        """Log p(x, z) − log q(z | x), shape (S, B)."""
        return self.log_likelihood + self.log_prior - self.log_guide


@torch.no_grad()
def importance_draws(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    x: Tensor,
    draws: int,
    seed: int,
    compile: str = "none",  # noqa: A002  (torch's own word)
    tick: Callable[[], Any] = lambda: None,
) -> Iterator[Draws]:
    """Draw from the guide for every datum, block after block of the data, in evaluation mode.

    Args:
        model: Pyro model with sites "z" and "x" in one plate.
        guide: Pyro guide with site "z".
        x: data, shape (N, D).
        draws: S, how many for each datum.
        seed: decides them.
        compile: "none", "capture" or "inductor". For whole blocks the tensor operations are then captured once and
            repeated. Operations on 16,000 codes at a time leave little to win but for inductor, which halves the time
            of an NSF prior and takes 5 to 40 seconds first: it pays from some thousand data on.
        tick: called `parts_of(len(x), draws)` times while the work goes on.

    Raises:
        FlowvaeError: for fewer than one draw or more than fit into memory, another `compile`, data of another shape or
            type, or a datum whose weights are not finite.
    """
    check_data(guide, x)
    check_int_value("draws", draws)
    if compile not in COMPILE:
        raise FlowvaeError(f"compile = {shown(compile)}: {nearest(compile, COMPILE)}")
    most = min(DRAWS, draws)
    whole: Callable[[Tensor], Tensor] = partial(_draw, model, guide, most)
    if compile != "none":
        whole = Replay(whole, compile)
    for number, block in enumerate(x.split(ROWS)):
        parts: list[Tensor] = []
        with eval_mode(model, guide), seeded(derive(seed, "draws", number)), pyro.validation_enabled(False):
            for start in range(0, draws, most):
                parts.append(whole(block) if start + most <= draws else _draw(model, guide, draws % most, block))
                if number == start == 0:
                    check_draws(draws, x, parts[0].shape[-1] - 3)
                    _check_alone(model, block, parts[0])
                tick()
        together = torch.cat(parts)
        found = Draws(together[..., 3:], *together[..., :3].unbind(-1))
        _check_finite(found.log_weight, model, guide, x, number * ROWS)
        yield found


def check_data(guide: object, x: object) -> None:
    """Refuse what are no data (N, D), or not those of the guide.

    Raises:
        FlowvaeError: for data of another shape or type.
    """
    rows = check_rows("x", x)
    if isinstance(guide, AmortizedGuide):
        guide.check(rows)


def parts_of(data: int, draws: int) -> int:
    """In how many parts `importance_draws` does its work."""
    return math.ceil(data / ROWS) * max(1, math.ceil(draws / DRAWS))


def check_draws(draws: int, x: Tensor, latent: int) -> None:
    """Refuse more draws a datum than fit into memory, for data (N, D).

    Raises:
        FlowvaeError: if they take more bytes than there are.
    """
    check_memory(f"draws = {draws}", 2 * draws * min(ROWS, len(x)) * (3 + latent) * x.itemsize, "use fewer")


def log_mean(log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the mean weight, and the weights' relative variance, over the first axis: (S, ...) → (...), (...).

    The relative variance V = Var(w) / mean(w)² tells everything about the error of log mean w by the delta method: its
    variance is V / S, its bias −V / (2 S), and S / (1 + V) draws are effective. V itself is at most S − 1, which it
    reaches where one draw has all the weight.
    """
    draws = len(log_weight)
    total = log_weight.double().logsumexp(0)
    effective = (2 * total - (2 * log_weight.double()).logsumexp(0)).exp()
    return total - math.log(draws), (draws / effective - 1).clamp_min(0)


def _check_alone(model: Callable[..., Any], x: Tensor, part: Tensor) -> None:
    """Refuse a model whose log p(x | z) is another one when several draws are scored together; `part` is of `_draw`."""
    if isinstance(model, VAE) or len(part) == 1:  # a VAE shows its decoder one code a row
        return
    with random_state_kept():
        alone = poutine.trace(poutine.condition(model, {"z": part[0, :, 3:]})).get_trace(x)
        alone.compute_log_prob(lambda name, site: name == "x")
    together, single = part[0, :, 0], alone.nodes["x"]["log_prob"].expand(len(x))
    wrong = (together - single).abs() > LIKE * (1 + single.abs())
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise FlowvaeError(
            f"x[{row}]: log p(x | z) is {together[row].item():g} among {len(part)} draws of z and "
            f"{single[row].item():g} alone: a layer of the decoder, such as batch normalization or convolution, takes "
            "draws for data. Bring codes (..., latent) to one row each before it, and back."
        )


def _check_finite(log_weight: Tensor, model: object, guide: object, x: Tensor, first: int) -> None:
    """Refuse log-weights (S, B) of which nothing can be computed; `first` is the number of their first datum."""
    bad = (log_weight.isnan() | log_weight.isposinf()).any(0) | log_weight.isneginf().all(0)
    if bad.any():
        column = int(bad.nonzero()[0])
        row = first + column
        values = log_weight[:, column]
        value = values[~values.isfinite()][0].item()
        cause = broken_tensor(model=model, guide=guide) or extreme_value("x", x, row)
        raise FlowvaeError(
            f"x[{row}]: log p(x, z) − log q(z | x) is {value:g} for draws of its code, so nothing can be measured: "
            f"{cause}. Leave such data out, or train the model anew."
        )


def _draw(model: Callable[..., Any], guide: Callable[..., Any], draws: int, x: Tensor) -> Tensor:
    """Log p(x | z), log p(z), log q(z | x) and z itself, side by side: shape (draws, B, 3 + latent)."""
    plate = pyro.plate("draws", draws, dim=-2)
    guide_trace = poutine.trace(plate(guide)).get_trace(x)
    model_trace = poutine.trace(poutine.replay(plate(model), trace=guide_trace)).get_trace(x)
    guide_trace.compute_log_prob(_is_latent)
    model_trace.compute_log_prob(lambda name, site: name in ("x", "z"))
    sites = (model_trace.nodes["x"], model_trace.nodes["z"], guide_trace.nodes["z"])
    refuse_scaled([site["name"] for site in sites if is_scaled(site)])
    logs = torch.stack([site["log_prob"].expand(draws, len(x)) for site in sites], dim=-1)
    code = guide_trace.nodes["z"]["value"]
    return torch.cat([logs, code.expand(draws, len(x), code.shape[-1])], dim=-1)


def _is_latent(name: str, site: Any) -> bool:
    return name == "z"
