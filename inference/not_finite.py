"""Diagnosis of losses and measures that are not finite, for error messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from flowvae.data.batch import Batch

__all__ = ["broken_tensor", "cause_at_start", "extreme_value", "outlier"]

HUGE = 1e15  # nats per data point; squares of such values are near the largest float32
FAR = 1e6  # a row is an outlier if its largest value exceeds the median over rows by this factor


def broken_tensor(**modules: object) -> str | None:
    """Describe the first parameter or buffer of the modules that is not finite; None if there is none.

    Buffers may contain some infinities, as in masks.

    >>> net = nn.Linear(1, 1)
    >>> broken_tensor(guide=net)
    >>> _ = net.bias.data.fill_(torch.nan)
    >>> broken_tensor(guide=net)
    'guide.bias holds nan'
    """
    for part, module in modules.items():
        if isinstance(module, nn.Module):
            for key, value in [*module.named_parameters(part), *module.named_buffers(part)]:
                bad = value[~value.isfinite()]
                mask = not isinstance(value, nn.Parameter) and bad.numel() < value.numel() and not bad.isnan().any()
                if bad.numel() and not mask:
                    return f"{key} holds {bad[0].item():g}"
    return None


def extreme_value(name: str, x: Tensor, row: int | None = None, numbers: Tensor | None = None) -> str:
    """Describe the largest absolute value of all data points (N, *event), or of one of them.

    Args:
        name: name of the data.
        x: the data points.
        row: index of the data point; None: all.
        numbers: row numbers of the data points, shape (N,); None: they are 0 to N − 1.

    >>> extreme_value("train", torch.tensor([[1.0, 2.0], [1e30, 3.0]]))
    'the largest value of train in size is 1e+30, at row 1, column 0; half of all are below 2'
    """
    flat = x.reshape(len(x), -1)
    size = flat.abs().nan_to_num(nan=torch.inf)
    row = int(size.amax(1).argmax()) if row is None else row
    column = int(size[row].argmax())
    value, typical = flat[row, column].item(), size.flatten()[: 2**24].median().item()
    place = f"column {column}"
    if x.ndim > 2:
        place = f"place {tuple(int(index) for index in torch.unravel_index(torch.tensor(column), x.shape[1:]))}"
    number = row if numbers is None else int(numbers[row])
    return (
        f"the largest value of {name} in size is {value:g}, at row {number}, {place}; half of all are below "
        f"{typical:.3g}"
    )


def outlier(name: str, x: Tensor, rows: Tensor, numbers: Tensor | None = None) -> str | None:
    """Describe a data point that is far from all others; None if there is none.

    Args:
        name: name of the data.
        x: the data points, shape (N, *event).
        rows: indices of the candidates, shape (B,).
        numbers: row numbers of the data points, shape (N,); None: they are 0 to N − 1.
    """
    size = x.reshape(len(x), -1).abs().amax(1)
    row = int(rows[size[rows].argmax()])
    typical = size.median()  # of rows, since most values of a row may be 0
    if not size[row] > FAR * typical > 0:
        return None
    number = row if numbers is None else int(numbers[row])
    return f"row {number} of {name} is far from the others: {extreme_value('that row', x, row, numbers)}"


@torch.no_grad()
def cause_at_start(
    model: Callable[..., Any], guide: Callable[..., Any], batch: Batch, numbers: Tensor, kl_weight: float, largest: str
) -> str | None:
    """Describe the data point or setting that makes the loss or its gradient overflow in the first step.

    None if the cause is not found.

    Args:
        model: Pyro model with its initial weights.
        guide: Pyro guide with its initial weights.
        batch: the B data points of the first step.
        numbers: their row numbers in the training data, shape (B,).
        kl_weight: β.
        largest: description of the largest value of the data.
    """
    if broken := broken_tensor(model=model, guide=guide):
        return f"{broken} before the first step, because of extreme data or settings: {largest}"
    with pyro.validation_enabled(False):
        guide_trace = poutine.trace(guide).get_trace(*batch.args)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch.args)
        for part, trace in (("guide", guide_trace), ("model", model_trace)):
            trace.compute_log_prob()
            for name in (*trace.stochastic_nodes, *trace.observation_nodes):
                log_prob = trace.nodes[name]["log_prob"]
                bad = ~(log_prob.abs() < HUGE)
                if log_prob.shape != numbers.shape or not bad.any():
                    continue
                first = int(bad.nonzero()[0])
                found = f"the {part}'s log-density of site {name!r} is {log_prob[first].item():g} nats"
                if not bad.all():
                    return (
                        f"{found} for row {int(numbers[first])} of train, and {int(bad.sum())} of {len(numbers)} data "
                        "points of the batch have such a value: "
                        f"{extreme_value('that row', batch.args[0], first, numbers)}. Leave such rows out, or rescale "
                        "them"
                    )
                return (
                    f"{found} and of that order for all {len(numbers)} data points of the batch: "
                    f"{_scale(model) or largest}"
                )
    if kl_weight != 1:
        return f"inference.kl_weight = {kl_weight:g}: the weighted KL term overflows; use a weight closer to 1"
    return None


def _scale(model: object) -> str | None:
    """Describe a fixed noise scale that is small compared with the spread of the data."""
    likelihood: Any = getattr(model, "likelihood", None)
    if "log_scale" not in getattr(likelihood, "_buffers", {}) or not hasattr(likelihood, "unit"):
        return None
    scale, unit = (likelihood.log_scale.exp() * likelihood.unit).min().item(), likelihood.unit.max().item()
    return (
        f"the noise scale of the likelihood is {scale:.3g} but the spread of the data is {unit:.3g}; use a larger "
        "scale, such as gaussian:0.1, or a learned one (gaussian)"
    )
