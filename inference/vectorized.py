"""Check that vectorized draws of a model and its guide have the log-densities of single draws."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from flowvae.core.errors import one_line
from flowvae.core.seeds import seeded
from flowvae.inference.batch_and_match import plate_depth

__all__ = ["MixedDrawsWarning", "can_vectorize"]

DRAWS = 3  # number of draws in the check
ROUNDING = 1e3  # tolerance, in units of the rounding error of the dtype


class MixedDrawsWarning(UserWarning):
    """A model cannot run once for all draws, so a fit runs it once for each draw, which is slower."""


def can_vectorize(
    model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> bool:
    """Whether model and guide can run once for many draws, with the same log-densities as once for each draw.

    A model that sums over all axes of a latent, as `w.sum()`, or indexes the first one, as `b[g]`, mixes the draws. A
    model that draws other random numbers in its code cannot be compared, and passes.

    Args:
        model: Pyro model.
        guide: its guide, which has run once.
        args: arguments of both.
        kwargs: keyword arguments.

    Warns:
        MixedDrawsWarning: if they cannot run once for many draws.
    """
    with poutine.block(), torch.no_grad(), pyro.validation_enabled(False):
        alone = poutine.trace(guide).get_trace(*args, **kwargs)
        first, second = (_alone(model, alone, args, kwargs, seed)[0] for seed in (0, 1))
        if not torch.equal(first, second):
            return True
        problem = _problem(model, guide, alone, args, kwargs)
    if problem:
        warnings.warn(
            f"{problem}, so the fit runs the model once for each draw, which is slower: let it keep the axes on the "
            "left of its latents, as w.sum(-1) and b[..., g] do, or silence this with vectorize = False.",
            MixedDrawsWarning,
            stacklevel=4,
        )
    return not problem


def _problem(model: Any, guide: Any, alone: Any, args: Any, kwargs: Any) -> str:
    """Describe what fails if they run for several draws at once; empty if nothing does."""
    depth = max(plate_depth(guide, *args, **kwargs), plate_depth(poutine.replay(model, trace=alone), *args, **kwargs))
    plate = pyro.plate("draws_of_the_trial", DRAWS, dim=-1 - depth)
    try:
        together = poutine.trace(plate(guide)).get_trace(*args, **kwargs)
        scored = poutine.trace(plate(poutine.replay(model, trace=together))).get_trace(*args, **kwargs)
        pairs = {"model": (model, _sums(scored, DRAWS, depth + 1))}
        if not isinstance(guide, AutoGuide):  # autoguides compute their sites from one vector and support vectorization
            pairs["guide"] = guide, _sums(together, DRAWS, depth + 1)
        draws = [_draw(together, alone, number) for number in range(DRAWS)]
    except Exception as error:  # a user's model may raise anything on values with another axis
        return f"{type(error).__name__} for {DRAWS} draws at once ({one_line(error).rstrip('.')})"
    for name, (program, (found, _)) in pairs.items():
        single, size = (
            torch.cat(part) for part in zip(*(_alone(program, d, args, kwargs) for d in draws), strict=True)
        )
        allowed = ROUNDING * torch.finfo(torch.get_default_dtype()).eps * (1 + size)
        if not (((found - single).abs() <= allowed) | torch.isclose(found, single, equal_nan=True)).all():
            return f"the {name} gives {DRAWS} draws at once other log-densities than one by one"
    return ""


def _alone(program: Any, draw: Any, args: Any, kwargs: Any, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`_sums` of a run with one draw."""
    with seeded(seed):
        trace = poutine.trace(poutine.replay(program, trace=draw)).get_trace(*args, **kwargs)
    return _sums(trace, 1)


def _sums(trace: Any, draws: int, axes: int | None = None) -> tuple[Tensor, Tensor]:
    """Sums over sites of log-densities and of their absolute values, each (draws,); sites must have `axes` axes."""
    trace.compute_log_prob()
    total, size = torch.zeros(2, draws, dtype=torch.float64)
    for node in trace.nodes.values():
        if node["type"] != "sample" or site_is_subsample(node):
            continue
        log_prob = node["log_prob"].double().cpu()
        if axes is not None:
            if log_prob.dim() != axes:
                raise ValueError(f"site {node['name']!r} then has log-densities of shape {tuple(log_prob.shape)}")
            log_prob = log_prob.expand(draws, *log_prob.shape[1:])
        rows = log_prob.reshape(draws, -1)
        total, size = total + rows.sum(1), size + rows.abs().sum(1)
    return total, size


def _draw(together: Any, alone: Any, number: int) -> Any:
    """The trace of a single run of a guide, with the values of one of several draws."""
    draw = alone.copy()
    for name, node in together.nodes.items():
        if node["type"] != "sample" or name not in draw.nodes:
            continue
        node_alone = draw.nodes[name] = dict(draw.nodes[name])
        value = node["value"]
        if not site_is_subsample(node):
            shape = node_alone["value"].shape
            value = value.expand(DRAWS, *value.shape[1:])[number].reshape(shape)
        node_alone["value"] = value
    return draw
