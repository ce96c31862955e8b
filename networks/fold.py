"""Networks as maps (N, *inputs) → (N, *outputs): folding of further leading axes, and a check."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Size, Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from flowvae.core.errors import FlowvaeError, one_line, shown
from flowvae.core.seeds import seeded
from flowvae.networks.eval_mode import eval_mode

__all__ = ["MixedBatchWarning", "check_network", "fold"]

POINTS = 3  # size of a test batch: not 1, which broadcasts, and not even, which can be halved
ROUNDING = 1e-5  # relative difference between a batch and single data points, from the order of sums in float32
MIXED = 1e-2  # relative to the differences between data points: a larger change is due to the other data points


class MixedBatchWarning(UserWarning):
    """Warning that a network's output for a data point depends on the rest of the batch in training mode."""


def fold(network: nn.Module, x: Tensor, event_dims: int, *context: Tensor) -> Tensor:
    """Apply a network to inputs with any number of leading axes, (..., *inputs) → (..., *outputs).

    The leading axes are folded into one: with several draws for each data point, a convolution, a batch normalization
    or a module that flattens from axis 1 on would otherwise mix draws and data points.

    Args:
        network: maps (N, *inputs) to (N, *outputs).
        x: inputs, shape (..., *inputs).
        event_dims: number of axes of an input.
        context: a condition, shape (N, C) for inputs (..., N, *inputs), or nothing.

    Raises:
        FlowvaeError: for a network that does not give one output per input.
    """
    leading = x.shape[: x.ndim - event_dims]
    if len(leading) == 1:
        return _called(network, x, *context)
    inputs = x.reshape(math.prod(leading), *x.shape[x.ndim - event_dims :])
    conditions = [c.expand(*leading, c.shape[-1]).reshape(len(inputs), c.shape[-1]) for c in context]
    out = _called(network, inputs, *conditions)
    return out.reshape(*leading, *out.shape[1:])


def _called(network: nn.Module, x: Tensor, *context: Tensor) -> Tensor:
    out = network(x, *context)
    if isinstance(out, Tensor) and out.shape[:1] == x.shape[:1]:
        return out
    given = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
    raise FlowvaeError(
        f"{type(network).__name__}: gives {given} for inputs {tuple(x.shape)}; it must map (N, *inputs) to "
        "(N, *outputs), one output for each input. flatten(1) flattens an input and keeps the batch axis."
    )


def check_network(
    label: str,
    network: nn.Module,
    inputs: Size,
    outputs: Size | None = None,
    context: int = 0,
    remedy: str = "",
) -> Size:
    """Check, on three inputs in evaluation mode, that a network maps (N, *inputs) to (N, *outputs).

    Lazy layers get their shapes here. The output for a data point must not depend on the others in the batch, which
    would silently make densities wrong; this is not checked for a network that draws random numbers in evaluation mode.
    The check is repeated in training mode, without dropout.

    Args:
        label: name of the network, for error messages.
        network: the network.
        inputs: event shape of the inputs.
        outputs: event shape that the outputs must have; None: any.
        context: C, size of a condition that it also reads; 0: it is called with the inputs alone.
        remedy: advice for a network that takes another number of arguments, for the error message.

    Returns:
        The event shape of the outputs.

    Raises:
        FlowvaeError: if it does not, or raises an error for such a batch.

    Warns:
        MixedBatchWarning: if outputs depend on the other inputs in training mode only, as with batch normalization.
    """
    name = f"{label} ({type(network).__name__})"
    before = f"(N, {_joined(inputs)})" + (f" and a condition (N, {context})" if context else "")
    after = "(N, *outputs)" if outputs is None else f"(N, {_joined(outputs)})"
    rule = f"it must map {before} to {after}"
    like = next(network.parameters(), torch.empty(0))
    shapes = (inputs, (context,)) if context else (inputs,)
    zeros = [torch.zeros(POINTS, *shape, dtype=like.dtype, device=like.device) for shape in shapes]
    with torch.no_grad(), eval_mode(network):
        try:
            out: object = network(*zeros)
        except Exception as error:  # a user's forward may raise anything
            raise FlowvaeError(
                f"{name}: {type(error).__name__} for inputs {_shapes(zeros)}: {one_line(error).rstrip('.')}; {rule}, "
                f"for any N{f'; {remedy}' if remedy and isinstance(error, TypeError) else ''}."
            ) from error
        if not isinstance(out, Tensor) or not out.is_floating_point():
            given = f"a tensor of {out.dtype}" if isinstance(out, Tensor) else shown(out)
            raise FlowvaeError(f"{name}: gives {given}; {rule}, as one tensor of a floating-point type.")
        if out.shape[:1] != (POINTS,):
            raise FlowvaeError(
                f"{name}: gives shape {tuple(out.shape)} for inputs {_shapes(zeros)}; {rule}, and keep the batch axis: "
                "flatten(1) flattens the others."
            )
        if outputs is not None and out.shape[1:] != outputs:
            raise FlowvaeError(f"{name}: gives shape {tuple(out.shape)} for inputs {_shapes(zeros)}; {rule}.")
        if out.ndim < 2:
            raise FlowvaeError(
                f"{name}: gives shape {tuple(out.shape)} for inputs {_shapes(zeros)}; {rule}; unsqueeze(1) adds the "
                "axis of outputs."
            )
        if why := _mixing(network, zeros):
            raise FlowvaeError(
                f"{name}: {why}; {rule}, each output from its own input alone. flatten(1) keeps data points separate, "
                "and GroupNorm normalizes them independently."
            )
        if _mixes_in_training(network, zeros):
            warnings.warn(
                f"{name}: in training mode an output depends on the other inputs of the batch, as with BatchNorm, so "
                "the ELBO of a training step differs from the ELBO in evaluation mode; use GroupNorm or LayerNorm.",
                MixedBatchWarning,
                stacklevel=2,
            )
    return out.shape[1:]


def _mixes_in_training(network: nn.Module, zeros: list[Tensor]) -> bool:
    """Whether outputs depend on the batch in training mode without dropout; restores modes and statistics."""
    modes = [(module, module.training) for module in network.modules()]
    kept = [
        (module, name, buffer, buffer.clone())
        for module, _ in modes
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    if not kept:  # without running statistics, both modes behave alike
        return False
    try:
        for module, _ in modes:
            module.training = not isinstance(module, _DropoutNd)
        return bool(_mixing(network, zeros))
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, value in kept:
                module._buffers[name] = buffer.copy_(value)


def _mixing(network: nn.Module, zeros: list[Tensor]) -> str:
    """Describe how the output for a data point depends on the others of the batch; empty if it does not."""
    generator = torch.Generator().manual_seed(0)
    batch = [torch.rand(part.shape, generator=generator).to(part) for part in zeros]

    def call(*parts: Tensor) -> Tensor:
        with seeded(0):
            return network(*parts)

    try:
        together = call(*batch)
        if together.shape[:1] != (POINTS,) or not together.isfinite().all():
            return ""
        with seeded(1):
            if not torch.equal(network(*batch), together):
                return ""
    except Exception:  # inputs between 0 and 1 may be invalid for the network
        return ""
    try:
        alone = torch.cat([call(*(part[i : i + 1] for part in batch)) for i in range(POINTS)])
    except Exception as error:
        return f"{type(error).__name__} for one input alone: {one_line(error).rstrip('.')}"
    if alone.shape != together.shape:
        return f"gives shape {tuple(alone.shape)} for {POINTS} inputs one by one, and {tuple(together.shape)} together"
    spread = (together - together.mean(0)).abs().max()
    allowed = MIXED * spread + ROUNDING * together.abs().max()
    difference = (together - alone).abs().flatten(1).amax(1)
    if (difference <= allowed).all():
        return ""
    return f"its output for an input changes by {difference.max().item():.2g} with the other inputs of the batch"


def _joined(shape: Size) -> str:
    return ", ".join(map(str, shape))


def _shapes(parts: list[Tensor]) -> str:
    return " and ".join(str(tuple(part.shape)) for part in parts)
