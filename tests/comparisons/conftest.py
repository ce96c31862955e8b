"""What the tests of comparisons share: a small experiment with data of its own, and a registry left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from flowvae.comparisons import QUESTIONS
from flowvae.data import Arrays, Dataset
from flowvae.experiments.experiment import Experiment
from flowvae.inference import Training
from flowvae.networks import MLP


@pytest.fixture(autouse=True)
def _same_questions() -> Iterator[None]:
    before = dict(QUESTIONS)
    yield
    QUESTIONS.clear()
    QUESTIONS.update(before)


@pytest.fixture
def coins(tmp_path: Path) -> Experiment:
    """Tosses of five coins, read from a file."""
    tosses = torch.rand(60, 5, generator=torch.Generator().manual_seed(0)).round()
    np.save(tmp_path / "coins.npy", tosses.numpy())
    return Experiment(
        latent=2,
        encoder=MLP((32,)),
        decoder=MLP((32,)),
        inference=Training(epochs=50, device="cpu"),
        data=Arrays(tmp_path / "coins.npy", likelihood="bernoulli"),
    )


@pytest.fixture
def coin_data(coins: Experiment) -> Dataset:
    return coins.data.load(0)
