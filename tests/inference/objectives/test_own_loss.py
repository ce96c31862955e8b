"""Losses of one's own in place of the ELBO."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training_cases import FAST, Rows, equal, values, weights

from flowvae import FlowvaeError
from flowvae.data.batch import Batch
from flowvae.inference import Cosine, TrainingStopped, fit

M = 0.8
X = values(40, 3)
CODES = M + values(4000, 1)


class Classifier(nn.Module):
    """r(z) = w z + b, the logarithm of a density ratio."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))
        self.b = nn.Parameter(torch.zeros(()))
        self.modes: set[tuple[bool, bool]] = set()

    def forward(self, z: Tensor) -> Tensor:
        self.modes.add((self.training, torch.is_grad_enabled()))
        return self.w * z[:, 0] + self.b


class Nothing(nn.Module):
    """No guide."""


def contrastive(ratio: Classifier, batch: Batch) -> Tensor:
    """Logistic loss of codes against as many draws from N(0, 1)."""
    (z,) = batch.args
    drawn = torch.randn_like(z)
    return (F.softplus(-ratio(z)) + F.softplus(ratio(drawn))).mean()


def test_a_contrastive_prior_learns_the_density_ratio() -> None:
    """log N(z; m, 1) − log N(z; 0, 1) = m z − m² / 2; the loss there by quadrature."""
    ratio = Classifier()
    settings = replace(FAST, epochs=60, batch_size=500, learning_rate=0.05, schedule=Cosine(), patience=60)
    fitted = fit(
        ratio, Nothing(), CODES, CODES, settings, progress=False, objective=lambda batch: contrastive(ratio, batch)
    )
    assert ratio.w.item() == pytest.approx(M, abs=0.06)
    assert ratio.b.item() == pytest.approx(-(M**2) / 2, abs=0.06)
    grid = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    exact = M * grid - M**2 / 2
    first, second = torch.distributions.Normal(M, 1.0), torch.distributions.Normal(0.0, 1.0)
    integrand = first.log_prob(grid).exp() * F.softplus(-exact) + second.log_prob(grid).exp() * F.softplus(exact)
    least = torch.trapezoid(integrand, grid).item()
    assert fitted.history["valid_elbo"].max() == pytest.approx(-least, abs=0.03)
    assert fitted.history["valid_elbo"].idxmax() == fitted.best_epoch
    assert fitted.history["train_elbo"].iloc[-5:].mean() == pytest.approx(-least, abs=0.03)
    assert {training for training, _ in ratio.modes} == {True, False}


class Location(nn.Module):
    """A location with the squared error as loss."""

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.zeros(3))

    def loss(self, batch: Batch) -> Tensor:
        return (batch.args[0] - self.at).square().sum(1).mean()


@pytest.mark.parametrize("source", [False, True])
def test_the_steps_are_those_of_torchs_adam(source: bool) -> None:
    """One step on all data."""
    x, valid = values(40, 3), values(25, 3, seed=1)
    ours = Location()
    settings = replace(FAST, epochs=1, batch_size=40, clip=None, learning_rate=0.1)
    fitted = fit(ours, Nothing(), Rows(x) if source else x, valid, settings, progress=False, objective=ours.loss)
    theirs = Location()
    adam = torch.optim.Adam(theirs.parameters(), lr=0.1)
    loss = theirs.loss(Batch(x))
    loss.backward()  # type: ignore[no-untyped-call]
    adam.step()
    torch.testing.assert_close(ours.at, theirs.at)
    assert fitted.history["train_elbo"].iloc[0] == pytest.approx(-loss.item())
    assert fitted.history["valid_elbo"].iloc[0] == pytest.approx(-theirs.loss(Batch(valid)).item())


def test_every_data_point_has_the_same_weight_in_an_epoch() -> None:
    x = values(10, 3)
    model = Location()
    gradients: list[Tensor] = []
    model.at.register_hook(lambda gradient: gradients.append(gradient.clone()))
    settings = replace(FAST, epochs=1, batch_size=4, learning_rate=1e-12)
    fitted = fit(model, Nothing(), x, x, settings, progress=False, objective=model.loss)
    assert len(gradients) == 3
    torch.testing.assert_close(sum(gradients) * 4 / 10, -2 * x.mean(0))
    assert fitted.history["train_elbo"].iloc[0] == pytest.approx(-x.square().sum(1).mean().item())
    assert fitted.history["valid_elbo"].iloc[0] == pytest.approx(-x.square().sum(1).mean().item())


def test_it_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    ends = []
    for parts in ((5,), (2, 5)):
        for epochs in parts:
            ratio = Classifier()
            fit(
                ratio,
                Nothing(),
                CODES[:200],
                CODES[:200],
                replace(FAST, epochs=epochs),
                checkpoint=tmp_path / str(len(parts)),
                progress=False,
                objective=lambda batch, ratio=ratio: contrastive(ratio, batch),
            )
        ends.append(weights(ratio))
    assert equal(*ends)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_step(value: float) -> None:
    model = Location()
    calls = []

    def loss(batch: Batch) -> Tensor:
        calls.append(1)
        return model.loss(batch) * (value if len(calls) == 3 else 1.0)

    with pytest.raises(TrainingStopped, match="epoch 0, batch 2"):
        fit(model, Nothing(), X, X, replace(FAST, batch_size=10), progress=False, objective=loss)
    assert len(calls) == 3
    assert model.at.isfinite().all()


@pytest.mark.parametrize(
    ("change", "objective", "held"),
    [
        ({"kl_weight": 0.5}, None, "kl_weight = 0.5"),
        ({"kl_warmup": 1}, None, "kl_warmup = 1"),
        ({"tempering": 1}, None, "tempering = 1"),
        ({"particles": 2}, None, "particles = 2"),
        ({}, lambda batch: batch.x.mean(1), "(16,)"),
        ({}, lambda batch: 1.0, "1.0"),
        ({}, lambda batch: batch.x.mean(), "no parameter"),
    ],
)
def test_what_is_no_loss_is_refused(change: dict[str, Any], objective: Any, held: str) -> None:
    model = Location()
    with pytest.raises(FlowvaeError) as refused:
        fit(model, Nothing(), X, X, replace(FAST, **change), progress=False, objective=objective or model.loss)
    assert held in str(refused.value)


def test_a_validation_of_its_own_chooses_the_best_epoch() -> None:
    """It sees all validation data at once, in evaluation mode, and may store what it finds with the weights."""

    class Counting(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("validated", torch.zeros(()))

    ratio = Counting()
    seen: list[tuple[int, bool]] = []
    losses = iter([3.0, 1.0, 2.0, math.inf])

    def validation(batch: Batch) -> Tensor:
        seen.append((len(batch), ratio.training))
        ratio.validated.add_(1)
        return torch.tensor(next(losses))

    settings = replace(FAST, epochs=4, batch_size=500, patience=60)
    fitted = fit(
        ratio,
        Nothing(),
        CODES,
        CODES[:700],
        settings,
        progress=False,
        objective=lambda batch: contrastive(ratio, batch),
        validation=validation,
    )
    assert seen == [(700, False)] * 4
    assert fitted.best_epoch == 1
    assert fitted.history["valid_elbo"].tolist() == [-3.0, -1.0, -2.0, -math.inf]
    assert ratio.validated.item() == 2
