"""The joint density of a Pyro model, datum by datum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
from pyro import poutine
from torch import Tensor

__all__ = ["log_joint"]


def log_joint(model: Callable[..., Any], x: Tensor, z: Tensor) -> Tensor:
    """Log p(x, z) in nats of S codes for each of N data, shape (S, N), with gradients to all of them.

    It may be asked for inside a guide, outside of the plate "data": whatever handles the guide's sites does not see
    the model's. All pairs of datum and code are data to the model, so it needs no plate for the draws.

    Args:
        model: Pyro model with sites "z" and "x" in one plate.
        x: data, shape (N, D).
        z: codes, shape (S, N, latent).
    """
    given = poutine.condition(model, data={"z": z.flatten(0, 1)})
    with poutine.block(), pyro.validation_enabled(False):
        trace = poutine.trace(given).get_trace(x.expand(len(z), *x.shape).flatten(0, 1))
        trace.compute_log_prob()
    return (trace.nodes["z"]["log_prob"] + trace.nodes["x"]["log_prob"]).reshape(z.shape[:-1])
