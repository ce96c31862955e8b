"""Time that a prior takes to draw codes."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Size

from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.context import EvaluationContext, MeasureResult
from flowvae.evaluation.metric import Metric
from flowvae.evaluation.registry import measure
from flowvae.models import VAE
from flowvae.networks import eval_mode

__all__ = ["measure_sampling_time"]

DRAWS = 10_000
TIMES = 3


@torch.no_grad()
def measure_sampling_time(model: VAE, draws: int = DRAWS, seed: int = 0) -> float:
    """Measure the seconds that a prior takes for its draws, without the decoder: the median of three runs.

    On a CPU this is the process's CPU time over all cores, which other programs disturb less than elapsed time.

    Args:
        model: an unconditional VAE.
        draws: number of codes.
        seed: random seed of the draws.
    """
    device = next(model.parameters()).device
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    taken = []
    with eval_mode(model):
        for number in range(TIMES):
            with seeded(derive(seed, "sampling time", number)):
                started = clock()
                model.prior().sample(Size((draws,)))[-1].cpu()  # waits until a GPU is done
                taken.append(clock() - started)
    return statistics.median(taken)


@measure("sampling-time")
def _sampling_time(context: EvaluationContext) -> MeasureResult:
    """Seconds for 10,000 draws of codes from the prior."""
    context.refuse_condition()
    seconds = measure_sampling_time(context.model, DRAWS, context.seed)
    device = next(context.model.parameters()).device
    protocol = {
        **context.protocol,
        "seed": context.seed,
        "draws": DRAWS,
        "clock": "CPU time of the process" if device.type == "cpu" else "elapsed",
        "device": device.type,
        "threads": torch.get_num_threads(),
    }
    return MeasureResult([Metric("sampling_seconds", seconds, None, "s for 10,000 codes", context.split, protocol)])
