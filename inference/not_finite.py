"""Why a loss or a measure is not finite, in words for an error message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

__all__ = ["broken_tensor", "cause_at_start", "extreme_value", "outlier"]

HUGE = 1e15  # nats a datum, whose squares come near the largest float32
FAR = 1e6  # times the median over the rows of their largest value, beyond which a row is an outlier whatever they are


def broken_tensor(**modules: object) -> str | None:
    """The first parameter or buffer of the modules that is not finite, in words; None if there is none.

    A buffer may hold some infinities, as masks do.

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


def extreme_value(name: str, x: Tensor, row: int | None = None) -> str:
    """The largest value in size, of all data (N, D) or of one row of them, in words.

    >>> extreme_value("train", torch.tensor([[1.0, 2.0], [1e30, 3.0]]))
    'the largest value of train in size is 1e+30, at row 1, column 0; half of all are below 2'
    """
    flat = x.reshape(len(x), -1)
    size = flat.abs().nan_to_num(nan=torch.inf)
    row = int(size.amax(1).argmax()) if row is None else row
    column = int(size[row].argmax())
    value, typical = flat[row, column].item(), size.flatten()[: 2**24].median().item()
    return (
        f"the largest value of {name} in size is {value:g}, at row {row}, column {column}; half of all are below "
        f"{typical:.3g}"
    )


def outlier(name: str, x: Tensor, rows: Tensor) -> str | None:
    """The row among some of the data (N, D) that is far from all of them, in words; None if there is none."""
    size = x[rows].abs().amax(1)
    row = int(rows[size.argmax()])
    typical = x.abs().amax(1).median()  # of rows, for most numbers of a row may be 0
    if not size.max() > FAR * typical > 0:
        return None
    return f"row {row} of {name} is far from the others: {extreme_value('that row', x, row)}"


@torch.no_grad()
def cause_at_start(
    model: Callable[..., Any], guide: Callable[..., Any], train: Tensor, rows: Tensor, kl_weight: float
) -> str | None:
    """What makes the loss or its gradient overflow before any step was taken: a datum or a setting, in words.

    None if it is not found.

    Args:
        model: Pyro model with its initial weights.
        guide: Pyro guide with its initial weights.
        train: training data, shape (N, D).
        rows: of train, which the batch holds, shape (B,).
        kl_weight: β.
    """
    largest = extreme_value("train", train)
    if broken := broken_tensor(model=model, guide=guide):
        return f"{broken} before the first step, as extreme data or settings make it: {largest}"
    with pyro.validation_enabled(False):
        guide_trace = poutine.trace(guide).get_trace(train[rows])
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(train[rows])
        for part, trace in (("guide", guide_trace), ("model", model_trace)):
            trace.compute_log_prob()
            for name in (*trace.stochastic_nodes, *trace.observation_nodes):
                log_prob = trace.nodes[name]["log_prob"]
                bad = ~(log_prob.abs() < HUGE)
                if log_prob.shape != rows.shape or not bad.any():
                    continue
                first = int(bad.nonzero()[0])
                found = f"the {part}'s log-density of site {name!r} is {log_prob[first].item():g} nats"
                if not bad.all():
                    row = int(rows[first])
                    return (
                        f"{found} for row {row} of train, and {int(bad.sum())} of {len(rows)} data of the batch have "
                        f"such a value: {extreme_value('that row', train, row)}. Leave such rows out, or rescale them"
                    )
                return f"{found} and of that order for all {len(rows)} data of the batch: {_scale(model) or largest}"
    if kl_weight != 1:
        return f"inference.kl_weight = {kl_weight:g}: weighted by it the KL term overflows; use one nearer to 1"
    return None


def _scale(model: object) -> str | None:
    """A fixed noise scale that is small beside the spread of the data, in words."""
    likelihood: Any = getattr(model, "likelihood", None)
    if "log_scale" not in getattr(likelihood, "_buffers", {}):
        return None
    scale, unit = (likelihood.log_scale.exp() * likelihood.unit).min().item(), likelihood.unit.max().item()
    return (
        f"the noise scale of the likelihood is {scale:.3g} where the data have a spread of {unit:.3g}; name a larger "
        "one, such as gaussian:0.1, or have it learned (gaussian)"
    )
