"""Posterior predictive draws of any Pyro model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from flowvae.evaluation.sites import read_program, simulator
from flowvae.seeds import derive, seeded

__all__ = ["predict"]

BLOCK = 250  # draws that share a stream of random numbers


@torch.no_grad()
def predict(
    model: Callable[..., Any], draws: Mapping[str, Tensor], *args: Any, seed: int = 0, **kwargs: Any
) -> dict[str, Tensor]:
    """New data for every draw of the latents.

    Args:
        model: Pyro model; what it observes is drawn anew.
        draws: site → values (S, *shape), such as those of `weigh` or of its `resample`; deterministic sites among
            them are computed anew.
        args: arguments of the model.
        seed: decides the data.
        kwargs: named arguments of the model.

    Returns:
        observed site → predictions, (S, *shape).
    """
    with seeded(derive(seed, "read")):
        observed = list(read_program(model, args, kwargs).of("observed"))
        program = read_program(simulator(model), args, kwargs)
        given = {name: draws[name] for name in program.of("latent") if name not in observed}
        program = program.tried(given)
    size = len(next(iter(given.values())))
    parts = []
    for number, start in enumerate(range(0, size, BLOCK)):
        with seeded(derive(seed, "predict", number)):
            few = {name: value[start : start + BLOCK] for name, value in given.items()}
            parts.append(program.run(few, min(BLOCK, size - start)).values)
    return {name: torch.cat([part[name] for part in parts]) for name in observed}
