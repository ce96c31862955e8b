"""The exercises of notebook 18 agree with independent computations and recognize common slips."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import softplus

from flowvae.course.exercise import Exercise
from flowvae.course.four_kinds import (
    PIXELS,
    bits_back,
    discriminator_of,
    fid,
    frechet,
    log_ratio,
    net_length,
)
from flowvae.evaluation import frechet_distance

UNIT = PIXELS * math.log(2)


@pytest.mark.parametrize(
    ("task", "slip", "reason"),
    [
        (discriminator_of, lambda p, q: q - p, "sign"),
        (discriminator_of, lambda p, q: p.exp() / (p.exp() + q.exp()), "logit"),
        (discriminator_of, lambda p, q: q.exp() / (p.exp() + q.exp()), "being a draw"),
        (discriminator_of, lambda p, q: (p - q).exp(), "ratio"),
        (discriminator_of, lambda p, q: p / q, "not their ratio"),
        (discriminator_of, lambda p, q: p - torch.logaddexp(p, q), "log σ(d)"),
        (discriminator_of, lambda p, q: (p.exp() / q.exp()).log(), "exp(−2000)"),
        (discriminator_of, lambda p, q: (p - q).sum(), "shape"),
        (discriminator_of, lambda p, q: p, "single x"),
        (fid, lambda m, v, n, w: (m - n).norm() + (v.sqrt() - w.sqrt()).square().sum(), "square the difference"),
        (fid, lambda m, v, n, w: (m - n).square().sum(), "spreads count"),
        (fid, lambda m, v, n, w: (v.sqrt() - w.sqrt()).square().sum(), "means count"),
        (fid, lambda m, v, n, w: (m - n).square().sum() + (v + w - 2 * v * w).sum(), "root"),
        (fid, lambda m, v, n, w: (m - n).square().sum() + (v - w).square().sum(), "not variances"),
        (fid, lambda m, v, n, w: frechet(m, v, n, w).sqrt(), "square of this"),
        (fid, lambda m, v, n, w: frechet(m, v, n, w) / 5, "mean"),
        (fid, lambda m, v, n, w: (m - n).square(), "one number"),
        (fid, lambda m, v, n, w: 3.0, "one dimension"),
        (bits_back, lambda r, p, q: -net_length(r, p, q), "sign"),
        (bits_back, lambda r, p, q: (q - r - p) / PIXELS, "log 2"),
        (bits_back, lambda r, p, q: (q - r - p) / math.log(2), "divide by 64"),
        (bits_back, lambda r, p, q: q - r - p, "nats per image"),
        (bits_back, lambda r, p, q: -(r + p) / UNIT, "nothing comes back"),
        (bits_back, lambda r, p, q: -(r + p + q) / UNIT, "other sign"),
        (bits_back, lambda r, p, q: -(r - q) / UNIT, "z must be sent"),
        (bits_back, lambda r, p, q: net_length(r, p, q).mean(), "shape"),
        (bits_back, lambda r, p, q: r, "off by"),
    ],
)
def test_slips_are_named(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong"
    assert reason in outcome.text


@pytest.mark.parametrize("task", [discriminator_of, fid, bits_back], ids=lambda task: task.name)
def test_solutions_are_right_and_empty_answers_are_open(task: Exercise) -> None:
    assert task.check(task.solved())
    assert task.check(lambda *_: None).kind == "open"


def test_log_ratio_minimizes_the_loss_of_a_discriminator() -> None:
    p, q = torch.tensor(0.7).double(), torch.tensor(0.2).double()
    outputs = torch.linspace(-4, 4, 8001, dtype=torch.float64)
    loss = p * softplus(-outputs) + q * softplus(outputs)
    assert abs(outputs[loss.argmin()] - log_ratio(p.log(), q.log())) < 1e-3


def test_frechet_is_the_fid_of_samples_with_these_moments() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 4000, 3, generator=generator, dtype=torch.float64)
    second = second * torch.tensor([0.5, 1.0, 2.0]) + torch.tensor([1.0, 0.0, -1.0])
    moments = first.mean(0), first.var(0), second.mean(0), second.var(0)
    torch.testing.assert_close(
        torch.tensor(frechet_distance(first, second)), frechet(*moments).float(), atol=0.02, rtol=0
    )


def test_net_length_averages_to_the_elbo_in_bits() -> None:
    reconstruction, log_prior, log_guide = torch.tensor([-90.0]), torch.tensor([-12.0]), torch.tensor([2.0])
    elbo = reconstruction + log_prior - log_guide
    torch.testing.assert_close(net_length(reconstruction, log_prior, log_guide) * PIXELS, -elbo / math.log(2))
