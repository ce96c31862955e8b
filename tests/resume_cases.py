"""A training that stops and goes on, against one that does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flowvae import MLP, Condition, Digits, Experiment, Training, load

QUICK = Training(epochs=2, batch_size=256, device="cpu", checkpoint_seconds=0.0, validation_draws=1)
HOW: dict[str, Any] = {"draws": 5, "figures": False, "progress": False}


def small(condition: bool = False, **parts: Any) -> Experiment:
    """An experiment on the digits that takes a second or two."""
    networks = {"encoder": MLP((8,)), "decoder": MLP((8,))}
    parts = {"latent": 4, "inference": QUICK, "data": Digits(), **networks, **parts}
    return Experiment(condition=Condition() if condition else None, **parts)


def check_resumes(experiment: Experiment, folder: Path) -> None:
    """One epoch, then the others, is the whole training bit for bit; an opened run is the one that was stored."""
    whole = experiment.run(folder / "whole", **HOW)
    replace(experiment, inference=replace(experiment.inference, epochs=1)).run(folder / "parts", **HOW)
    again = experiment.run(folder / "parts", resume=True, **HOW)
    opened = load(folder / "parts")
    assert again.metrics == whole.metrics == opened.metrics
    for run in (again, opened):
        for part, other in zip(run.pair, whole.pair, strict=True):
            state = other.state_dict()
            assert part.state_dict().keys() == state.keys()
            for name, value in part.state_dict().items():
                assert torch.equal(value, state[name]), name
