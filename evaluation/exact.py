"""The likelihood of models that know it: autoregressive models, flows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from flowvae.evaluation.metrics import Metric
from flowvae.evaluation.weights import ROWS

__all__ = ["exact_metrics"]


@torch.no_grad()
def exact_metrics(
    log_prob: Callable[[Tensor], Tensor],
    x: Tensor,
    discrete: bool,
    split: str,
    protocol: dict[str, Any],
) -> list[Metric]:
    """Mean negative log-likelihood of data x (N, D), exact, with its standard error over the data.

    Args:
        log_prob: log p of a block of data in nats, (B, D) → (B,), such as a model's `log_prob`.
        x: data, shape (N, D).
        discrete: whether the data are counts, so that bits/dim are a code length; no bits/dim otherwise.
        split: name of the split.
        protocol: identity of the data, seed.

    Returns:
        "nll" in nats per datum, and for counts "nll_bits_per_dim" = nll / (D log 2). They are comparable with
        the metrics of the same names of a VAE, which are bounds.
    """
    with pyro.validation_enabled(False):
        nll = -torch.cat([log_prob(block) for block in x.split(ROWS)]).double().cpu()
    mean = nll.mean().item()
    se = (nll.std() / math.sqrt(len(nll))).item() if len(nll) > 1 else None
    protocol = {**protocol, "likelihood": "exact"}
    metrics = [Metric("nll", mean, se, "nats per datum", split, protocol)]
    if discrete:
        scale = 1 / (x.shape[1] * math.log(2))
        spread = None if se is None else se * scale
        metrics.append(Metric("nll_bits_per_dim", mean * scale, spread, "bits/dim", split, protocol))
    return metrics
