"""Mixed precision: the networks of a pair in bfloat16, everything else in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError

__all__ = ["PRECISIONS", "autocast", "networks_in"]

PRECISIONS = ("float32", "bfloat16")


def networks_in(precision: str, model: nn.Module, guide: nn.Module) -> list[nn.Module]:
    """Find the networks of a pair that run in lower precision.

    Model and guide name them in an attribute `low_precision`, a sequence of modules; a network may do so in turn, if
    only a part of it may be rounded.

    Args:
        precision: "float32": none of them; or "bfloat16".
        model: Pyro model.
        guide: Pyro guide.

    Raises:
        FlowvaeError: for a model or guide that names none, or that has parameters other than float32.
    """
    if precision == "float32":
        return []
    for part in (model, guide):
        for name, parameter in part.named_parameters():
            if parameter.dtype != torch.float32:
                raise FlowvaeError(
                    f"precision = {precision!r}: {type(part).__name__} has {name} of {parameter.dtype}; parameters "
                    "must be torch.float32. Use .float(), or precision = 'float32', which takes them as they are."
                )
        if not hasattr(part, "low_precision"):
            raise FlowvaeError(
                f"precision = {precision!r}: {type(part).__name__} does not name the networks that may be rounded; "
                "give it an attribute low_precision, a tuple of modules, () for none, or use precision = 'float32'."
            )
    return list(dict.fromkeys(network for part in (model, guide) for network in _named(part)))


def _named(part: Any) -> Iterator[nn.Module]:
    for network in part.low_precision:
        if hasattr(network, "low_precision"):
            yield from _named(network)
        else:
            yield network


@contextmanager
def autocast(networks: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Run these networks in bfloat16 autocast inside the block, with outputs in float32.

    Matrix products and convolutions round their inputs and results to bfloat16, which has 8 significant bits, and sum
    in float32. Parameters and their gradients stay in float32.

    References:
        Micikevicius et al. (2018), "Mixed Precision Training"; Kalamkar et al. (2019), "A Study of BFLOAT16 for Deep
        Learning Training".
    """
    before = [vars(network).get("forward") for network in networks]  # set on the instance, as torch.compile does
    for network in networks:
        network.forward = _rounded(network.forward, device.type)
    try:
        yield
    finally:
        for network, forward in zip(networks, before, strict=True):
            del network.forward
            if forward is not None:
                network.forward = forward


def _rounded(forward: Callable[..., Any], device: str) -> Callable[..., Any]:
    def rounded(*args: Any, **kwargs: Any) -> Any:
        # without a cache: within a call each weight is rounded once, and no rounded weight outlives the call
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            out = forward(*args, **kwargs)
        return out.float() if isinstance(out, Tensor) else out

    return rounded
