"""The exercises of notebook 6 recognize common slips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowvae.course.exercise import Exercise
from flowvae.course.flow_prior import both_elbos, elbos, identity, log_normal, passes, start_as_identity


def zero(network: nn.Sequential, *chosen: str) -> nn.Sequential:
    for name, parameter in network.named_parameters():
        if name in chosen or not chosen:
            nn.init.zeros_(parameter)
    return network


def halved(network: nn.Sequential) -> nn.Sequential:
    with torch.no_grad():
        network[-1].weight.mul_(0.01)
    return network


def written(first: Callable[..., Tensor] | None = None, other: Callable[..., Tensor] | None = None) -> Any:
    """Both ELBOs, one of which may be written otherwise, of z, u, log|det ∂u/∂z|, log q, T⁻¹, T and log p(x | g(·))."""

    def answer(noise: Tensor, loc: Tensor, scale: Tensor, to: Any, out: Any, fit: Any) -> Any:
        z = loc + scale * noise
        given = (z, *to(z), log_normal(z, loc, scale), to, out, fit)
        right = both_elbos(noise, loc, scale, to, out, fit)
        return tuple(r if f is None else f(*given) for f, r in zip((first, other), right, strict=True))

    return answer


def first_vae_twice(*args: Any) -> tuple[Tensor, Tensor]:
    def out(u: Tensor) -> Any:
        to = args[3]
        z = args[1] + args[2] * args[0]
        return z, -to(z)[1]

    return both_elbos(*args[:4], out, args[5])


@pytest.mark.parametrize("task", [identity, passes, elbos])
def test_the_solution_is_right_and_nothing_is_open(task: Exercise) -> None:
    assert task.check(task.solved())
    assert task.check(None).kind == "open"


@pytest.mark.parametrize(
    ("task", "slip", "reason"),
    [
        (identity, zero, "still does not depend"),
        (identity, lambda network: zero(network, "4.weight"), "set the last bias to zero too"),
        (identity, lambda network: zero(network, "0.weight", "0.bias"), "set the last bias to zero too"),
        (identity, halved, "the flow is not the identity"),
        (identity, lambda network: network, "the flow is not the identity"),
        (identity, lambda network: start_as_identity(network)[-1].weight, "return the network"),
        (passes, (80, 5), "costs of an IAF"),
        (passes, (5, 5), "number by number"),
        (passes, (16, 80), "whole code at once"),
        (passes, 5, "pair"),
        (elbos, lambda *args: both_elbos(*args)[0], "pair"),
        (elbos, first_vae_twice, "first VAE once more"),
    ],
)
def test_slips_are_named(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong"
    assert reason in outcome.text


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (lambda z, u, d, q, to, out, fit: fit(z) + log_normal(u) - q, "log-determinant is missing"),
        (lambda z, u, d, q, to, out, fit: fit(z) + log_normal(u) - d - q, "the sign of the log-determinant"),
        (lambda z, u, d, q, to, out, fit: fit(z) + log_normal(u) + to(u)[1] - q, "taken at u"),
        (lambda z, u, d, q, to, out, fit: fit(z) + log_normal(u) - out(z)[1] - q, "T is taken at z"),
        (lambda z, u, d, q, to, out, fit: fit(z) + log_normal(u) + out(z)[1] - q, "T at z"),
        (lambda z, u, d, q, to, out, fit: fit(z) + log_normal(z) + d - q, "base density is taken at z"),
        (lambda z, u, d, q, to, out, fit: fit(u) + log_normal(u) + d - q, "decoder got u"),
        (lambda z, u, d, q, to, out, fit: fit(z) + log_normal(u) + 3 * d - q, "once per dimension"),
        (lambda z, u, d, q, to, out, fit: fit(z) + log_normal(u) + d, "log q is missing"),
        (lambda z, u, d, q, to, out, fit: -(fit(z) + log_normal(u) + d - q), "this is the loss"),
        (lambda z, u, d, q, to, out, fit: (fit(z) + log_normal(u) + d - q).mean(), "one ELBO for each draw"),
        (lambda z, u, d, q, to, out, fit: (fit(z) + log_normal(u) + d - q).float(), "single precision"),
    ],
)
def test_slips_of_the_first_elbo_are_named(score: Callable[..., Tensor], reason: str) -> None:
    text = elbos.check(written(score)).text
    assert text.startswith("first: ")
    assert reason in text


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (lambda z, u, d, q, to, out, fit: fit(out(u)[0]) + log_normal(u) - q, "its density changes"),
        (lambda z, u, d, q, to, out, fit: fit(out(u)[0]) + log_normal(u) - d - q, "gets thinner"),
        (lambda z, u, d, q, to, out, fit: fit(out(u)[0]) + log_normal(u) + 2 * d - q, "in it twice"),
        (lambda z, u, d, q, to, out, fit: fit(out(u)[0]) + log_normal(u) - out(z)[1] - q, "T acts on u"),
        (lambda z, u, d, q, to, out, fit: fit(u) + log_normal(u) + d - q, "deeper decoder is g∘T"),
        (lambda z, u, d, q, to, out, fit: fit(out(z)[0]) + log_normal(z) - q, "plain guide: another VAE"),
        (lambda z, u, d, q, to, out, fit: fit(z) + log_normal(out(z)[0]) - out(z)[1] - q, "not T(z)"),
    ],
)
def test_slips_of_the_second_elbo_are_named(score: Callable[..., Tensor], reason: str) -> None:
    text = elbos.check(written(None, score)).text
    assert text.startswith("second: ")
    assert reason in text
