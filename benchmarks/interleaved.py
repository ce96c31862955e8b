"""Interleaved timing of the training steps of several programs.

The arms take blocks of steps in turn, so that changes of the machine's speed affect all of them. The arm measures the
time of its block; a value is a block's mean time per step. After every arm's first call, which may compile on all
cores, the process is bound to one core.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from cores import bind, bound
from torch import Tensor

__all__ = ["BLOCK", "Arm", "Steps", "interleaved"]

BLOCK = 20  # steps


class Arm(Protocol):
    """One way to take the training steps of a case.

    Attributes:
        name: name of the arm.
        steps_a_call: number of steps of one call of the program; a block is a multiple of it.
        loss: loss of the last step, in nats per data point.
    """

    name: str
    steps_a_call: int
    loss: float

    def block(self, steps: int) -> float:
        """Take a number of steps; return seconds per step."""
        ...


class Steps:
    """An arm that is a function of a batch.

    The blocks of all arms have the same seeds, so that arms that draw in the same way use the same noise.

    Args:
        name: name of the arm.
        step: takes one step and returns its loss.
        data: batches (n, B, D), used in turn.
        scale: factor that converts the loss to nats per data point.
    """

    steps_a_call = 1

    def __init__(self, name: str, step: Callable[[Tensor], float], data: Tensor, scale: float = 1.0) -> None:
        self.name = name
        self.step = step
        self.data = data
        self.scale = scale
        self.taken = 0
        self.loss = math.nan

    def block(self, steps: int) -> float:
        torch.manual_seed(self.taken)
        started = time.perf_counter()
        for index in range(self.taken, self.taken + steps):
            loss = self.step(self.data[index % len(self.data)])
        seconds = time.perf_counter() - started
        self.taken += steps
        self.loss = loss * self.scale
        return seconds / steps


def interleaved(arms: Sequence[Arm], steps: int, block: int = BLOCK) -> dict[str, dict[str, Any]]:
    """Time `steps` steps of each arm, and at least two blocks, after a warm-up block.

    Returns:
        By the arm's name: median, minimum and quartiles of the blocks in milliseconds per step, seconds of the first
        call, and the last loss.
    """
    first = {arm.name: arm.block(arm.steps_a_call) * arm.steps_a_call for arm in arms}
    cores = bound()
    bind(None if cores is None else {max(cores)})
    times: dict[str, list[float]] = {arm.name: [] for arm in arms}
    try:
        for index in range(-1, max(2, math.ceil(steps / block))):
            for arm in arms:
                seconds = arm.block(block)
                if index >= 0:
                    times[arm.name].append(1000 * seconds)
    finally:
        bind(cores)
    rows = {}
    for arm in arms:
        quartiles = statistics.quantiles(times[arm.name], n=4)
        rows[arm.name] = {
            "median_ms": statistics.median(times[arm.name]),
            "least_ms": min(times[arm.name]),
            "quartiles_ms": [quartiles[0], quartiles[2]],
            "first_step_s": first[arm.name],
            "last_loss": arm.loss,
        }
    return rows
