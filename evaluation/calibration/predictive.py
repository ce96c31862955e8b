"""Posterior predictive draws of any Pyro model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.likelihood.trace_sites import Site, read_model, simulator
from flowvae.networks import in_eval_mode

__all__ = ["predict"]

BLOCK = 250  # draws that share a stream of random numbers


@torch.no_grad()
@in_eval_mode
def predict(
    model: Callable[..., Any], draws: Mapping[str, Tensor], *args: Any, seed: int = 0, **kwargs: Any
) -> dict[str, Tensor]:
    """Draw new data for every draw of the latents, including masked data.

    Args:
        model: Pyro model; its observed sites are drawn.
        draws: site → values (S, *shape), such as `ImportanceSample.draws` or those of its `resample`; deterministic
            sites are recomputed.
        args: arguments of the model.
        seed: random seed of the data.
        kwargs: keyword arguments of the model.

    Returns:
        Predictions by observed site, (S, *shape).

    Raises:
        FlowvaeError: for draws that lack a latent of the model, or of other shapes or numbers.
    """
    with seeded(derive(seed, "read")):
        first = {name: value[0] for name, value in draws.items() if value.dim() and len(value)}
        observed = list(read_model(model, args, kwargs, first).of("observed"))
        program = read_model(simulator(model), args, kwargs, first)
        latent = {name: site for name, site in program.of("latent").items() if name not in observed}
        size = _size(latent, draws)
        given = {name: draws[name] for name in latent}
        program = program.tried(given)
    parts = []
    for number, start in enumerate(range(0, size, BLOCK)):
        with seeded(derive(seed, "predict", number)):
            few = {name: value[start : start + BLOCK] for name, value in given.items()}
            parts.append(program.run(few, min(BLOCK, size - start)).values)
    return {name: torch.cat([part[name] for part in parts]) for name in observed}


def _size(latent: Mapping[str, Site], draws: Mapping[str, Tensor]) -> int:
    """Number of draws, the same for every latent."""
    lacking = sorted(set(latent) - set(draws))
    if lacking:
        raise FlowvaeError(f"draws: no values of {', '.join(lacking)}; give values of every latent site of the model.")
    sizes = {len(draws[name]) if draws[name].dim() else 0 for name in latent}
    for name, site in latent.items():
        if draws[name].shape[1:] != site.shape or len(sizes) > 1 or 0 in sizes:
            raise FlowvaeError(
                f"draws of {name!r} have the shape {tuple(draws[name].shape)}: must be (S, *{tuple(site.shape)}), with "
                "one number S of draws, 1 or more, for all latents."
            )
    if not sizes:
        raise FlowvaeError("the model has no latent site, so there is nothing to predict from; call the model itself.")
    return sizes.pop()
