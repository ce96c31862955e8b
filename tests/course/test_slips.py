"""The exercises of notebook 10 refuse the slips of the notebook, and those beside them, with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import softplus

from flowvae.course.exercise import Exercise
from flowvae.course.slips import (
    BITS,
    LAYERS,
    STANDARD,
    Layer,
    flow_log_prob,
    integral,
    joint,
    kl,
    kl_to_flow,
    plane,
    prior,
    prior_line,
    rows,
    total_of_sums,
)
from flowvae.course.slips_layers import (
    bound,
    determinant,
    fixed_point,
    inverse,
    passes,
    passes_of_three_transforms,
    planar_lines,
    planar_log_det,
)
from flowvae.course.slips_scores import (
    get_nll,
    mixture_lines,
    mixture_log_prob,
    mixture_sample,
    nll,
    nll_line,
    sampler,
    score,
)


def base(z: Tensor, layers: Sequence[Layer]) -> Tensor:
    for layer in layers:
        z, _ = layer(z)
    return STANDARD.log_prob(z)


def log_det(z: Tensor, layers: Sequence[Layer]) -> Tensor:
    return flow_log_prob(z, layers) - base(z, layers).sum(-1)


def each(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return Normal(mean[:, None], (log_var / 2).exp()[:, None]).log_prob(z)


def scrambled(count: int, *mixture: Tensor) -> Tensor:
    return torch.stack([mixture_sample(count, *mixture)[:, d] for d in range(2)], -1)


def one_noise(count: int, log_weight: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    k = torch.multinomial(log_weight.exp(), count, replacement=True)
    return mean[k] + (log_var[k] / 2).exp() * torch.randn(count, 1)


def moved(u: Tensor, w: Tensor, reach: Tensor, square: Tensor) -> Tensor:
    return u + (reach - w @ u) * w / square


def prime(z: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return (1 - torch.tanh(z @ w + b) ** 2)[:, None]


def first(change: Callable[[Tensor, Tensor], Any]) -> Any:
    return lambda p, q, dimensions: (change(p, q), get_nll(p, q, dimensions)[1])


def second(change: Callable[[Tensor, int], Any]) -> Any:
    return lambda p, q, d: (get_nll(p, q, d)[0], change(get_nll(p, q, d)[0], d))


def passing(**changes: int) -> dict[str, int]:
    names = {"prior_images": "MAF prior, new images", "guide_images": "IAF guide, new images"}
    return passes_of_three_transforms() | {
        names.get(name, "MAF prior, training step"): v for name, v in changes.items()
    }


DENSITIES: list[tuple[Exercise, Any, str]] = [
    (rows, 1, "product"),
    (rows, 2**BITS, "number of rows"),
    (rows, BITS * 2**BITS, "two values"),
    (rows, 2 ** (BITS - 1), "one of the terms"),
    (rows, 17, "D = 1"),
    (rows, BITS, "other seven bits"),
    (rows, "D 2^(D−1)", "with a number"),
    (joint, lambda p: p.sum(-1), "the formula with Σ"),
    (joint, lambda p: p.sum(-1).log(), "logarithm comes first"),
    (joint, lambda p: p.prod(-1), "its logarithm is asked for"),
    (joint, lambda p: p.prod(-1).log(), "5000"),
    (joint, lambda p: p.log().mean(-1), "/ D"),
    (joint, lambda p: p.log(), "(20,)"),
    (prior_line, 5, "came in from the prior"),
    (prior_line, "4", "number of a line"),
    (prior, lambda z, layers: flow_log_prob(z, layers[::-1]), "both orders"),
    (kl, lambda z, log_q, layers: kl_to_flow(z, log_q, layers[::-1]), "both orders"),
    (prior, lambda z, layers: flow_log_prob(z, layers) + log_det(z, layers), "once per dimension"),
    (prior, lambda z, layers: base(z, layers).sum(-1), "log-determinant is missing"),
    (prior, lambda z, layers: flow_log_prob(z, layers) - 2 * log_det(z, layers), "the sign"),
    (prior, lambda z, layers: base(z, layers) + log_det(z, layers)[:, None] / 2, "summed up it is right"),
    (prior, lambda z, layers: base(z, layers).mean(-1) + log_det(z, layers), "base is averaged"),
    (prior, lambda z, layers: 2 * base(z, layers).mean(-1) + log_det(z, layers), "wrong for D = 5"),
    (prior, lambda z, layers: STANDARD.log_prob(z).sum(-1) + log_det(z, layers), "taken at z"),
    (kl, lambda z, log_q, layers: (log_q - base(z, layers).sum(-1)).mean(), "the term of the title"),
    (kl, lambda z, log_q, layers: kl_to_flow(z, log_q, layers) + 2 * log_det(z, layers).mean(), "the sign of the log"),
    (kl, lambda *a: -kl_to_flow(*a), "E_q[log q − log p]"),
    (kl, lambda z, log_q, layers: (log_q - STANDARD.log_prob(z).sum(-1)).mean(), "N(0, I)"),
    (kl, lambda z, log_q, layers: len(z) * kl_to_flow(z, log_q, layers), "sum over the draws"),
    (kl, lambda z, log_q, layers: kl_to_flow(z, log_q, layers) - log_det(z, layers).mean(), "section 3"),
]

SCORES: list[tuple[Exercise, Any, str]] = [
    (mixture_lines, (1, 7), "one component for a whole vector is right"),
    (mixture_lines, (3, 6), "one number per dimension"),
    (mixture_lines, 3, "another line too"),
    (sampler, lambda n, w, m, v: mixture_sample(n, w, m, 2 * v), "the variance"),
    (sampler, lambda n, w, m, v: mixture_sample(n, w, m, v / 2), "½ too many"),
    (sampler, lambda n, w, m, v: mixture_sample(n, w, m, -v), "sign in the exponent"),
    (sampler, lambda n, w, m, v: mixture_sample(n, torch.full_like(w, -math.log(2)), m, v), "weight is 70"),
    (sampler, scrambled, "k belongs to the vector"),
    (sampler, one_noise, "share their noise"),
    (score, lambda *a: mixture_log_prob(*a) + math.log(2 * math.pi), "2π"),
    (score, lambda z, w, m, v: (each(z, m, v) + w[:, None, None]).logsumexp(0).sum(-1), "mix across dimensions"),
    (score, lambda z, w, m, v: (each(z, m, v) + w[:, None, None]).sum(-1).logsumexp(0), "once per dimension"),
    (score, lambda z, w, m, v: (each(z, m, v).sum(-1) * w.exp()[:, None]).sum(0), "mean of densities"),
    (score, lambda z, w, m, v: mixture_log_prob(z, w, m, 2 * v), "logarithm of a standard deviation"),
    (score, lambda z, w, m, v: each(z, m, v).sum(-1).logsumexp(0), "number of components"),
    (nll_line, 2, "the mean over K"),
    (nll, first(lambda p, q: -get_nll(p, q, 4)[0]), "NLL has a minus"),
    (nll, first(lambda p, q: -(p - q).mean()), "minus the ELBO"),
    (nll, first(lambda p, q: -(p - q).logsumexp(0).mean()), "log K is missing"),
    (nll, first(lambda p, q: 500 * get_nll(p, q, 4)[0]), "summed over the data points"),
    (nll, first(lambda p, q: math.log(500) - (p - q).logsumexp(1).mean()), "dimension 0"),
    (nll, second(lambda nats, d: nats / d), "nats per dimension"),
    (nll, second(lambda nats, d: nats / math.log(2)), "number of dimensions too"),
    (nll, second(lambda nats, d: nats * math.log(2) / d), "do not multiply"),
    (nll, lambda p, q, d: get_nll(p, q, d)[0], "two numbers"),
]

LAYER: list[tuple[Exercise, Any, str]] = [
    (planar_lines, (3, 5), "gradient of h"),
    (bound, lambda u, w, L: moved(u, w, softplus(w @ u) - 1, w.norm()), "not by ‖w‖"),
    (bound, lambda u, w, L: moved(u, w, (softplus(L * (w @ u)) - 1) / L, w.norm()), "not by ‖w‖"),
    (bound, lambda u, w, L: moved(u, w, softplus(w @ u) - 1, w @ w), "right for L = 1 only"),
    (bound, lambda u, w, L: moved(u, w, softplus(w @ u) - L, w @ w), "not −L"),
    (bound, lambda u, w, L: moved(u, w, (w @ u).clamp_min(-1 / L), w @ w), "strict"),
    (bound, lambda u, w, L: moved(u, w, torch.tanh(w @ u) / L, w @ w), "never exceeds"),
    (bound, lambda u, w, L: u, "nothing is constrained"),
    (bound, lambda u, w, L: moved(u, w, softplus(w @ u), w @ w), "forbids too much"),
    (bound, lambda u, w, L: u.abs() * w.sign(), "not along w"),
    (determinant, lambda z, u, w, b: (1 + prime(z, w, b) * w * u).abs().log().sum(-1), "number by number"),
    (determinant, lambda z, u, w, b: (1 + prime(z, w, b)[..., None] * torch.outer(u, w)).abs().log(), "not a matrix"),
    (determinant, lambda z, u, w, b: (1 + torch.tanh(z @ w + b) * (w @ u)).abs().log(), "tanh itself"),
    (determinant, lambda *a: planar_log_det(*a).exp(), "its logarithm is asked for"),
    (determinant, lambda *a: -planar_log_det(*a), "log-determinant of the inverse"),
    (fixed_point, lambda y, g: y - g(y), "one step"),
    (fixed_point, lambda y, g: y + g(y), "once more"),
    (fixed_point, lambda y, g: y - g(y - g(y - g(y - g(y - g(y - g(y)))))), "hundred steps"),
    (fixed_point, lambda y, g: inverse(y, lambda v: -g(v)), "off by"),
    (passes, passing(prior_training=24), "other direction"),
    (passes, passing(prior_images=3), "other direction"),
    (passes, passing(guide_images=3), "no guide takes part"),
    (passes, passing(prior_images=2400), "whole batch"),
    (passes, passing(prior_images=17), "D = 8"),
]


@pytest.mark.parametrize(("task", "slip", "reason"), DENSITIES + SCORES + LAYER)
def test_slips_are_named(task: Exercise, slip: Any, reason: str) -> None:
    outcome = task.check(slip)
    assert outcome.kind == "wrong", outcome
    assert reason in outcome.text


@pytest.mark.parametrize(
    "reach",
    [
        lambda a, L: (softplus(L * a) - 1) / L,
        lambda a, L: softplus(a) - 1 / L,
        lambda a, L: (softplus(a) - 1) / L,
        lambda a, L: a.clamp_min(-1 / L + 1e-3),
    ],
)
def test_every_reach_above_the_bound_is_accepted(reach: Callable[[Tensor, float], Tensor]) -> None:
    assert bound.check(lambda u, w, L: moved(u, w, reach(w @ u, L), w @ w))


def test_the_sum_over_all_rows_by_enumeration() -> None:
    generator = torch.Generator().manual_seed(0)
    every = torch.cartesian_prod(*[torch.tensor([0, 1])] * BITS)
    p_next = torch.rand(BITS, 2, generator=generator)  # of a one, given the bit before
    total = torch.zeros(())
    for i in range(BITS):
        one = p_next[i][every[:, i - 1]] if i else p_next[0, 0].expand(len(every))
        total = total + torch.where(every[:, i] == 1, one, 1 - one).sum()
    assert total.item() == pytest.approx(total_of_sums(), rel=1e-5)


def test_the_layers_of_the_notebook_have_these_determinants_and_the_grid_integrates() -> None:
    z = torch.randn(20, 2, dtype=torch.float64)
    for layer in LAYERS:
        jacobians = torch.stack([torch.func.jacrev(lambda v, f=layer: f(v[None])[0][0])(point) for point in z])
        torch.testing.assert_close(torch.linalg.slogdet(jacobians).logabsdet, layer(z)[1])
    assert integral(flow_log_prob(plane(), LAYERS)) == pytest.approx(1, abs=1e-4)
