"""The exercises of notebook 11: each check refuses the published slip, and those beside it, with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import softplus

Solved = Callable[[str], dict[str, Any]]


@pytest.fixture
def names(solved: Solved) -> dict[str, Any]:
    return solved("11_four_slips")


def refuses(check: Callable[..., None], slips: list[tuple[tuple[Any, ...], str]]) -> None:
    for arguments, reason in slips:
        with pytest.raises(ValueError, match=reason):
            check(*arguments)


def test_slips_of_the_flow_prior(names: dict[str, Any]) -> None:
    right, standard = names["flow_log_prob"], Normal(0.0, 1.0)

    def base(z: Tensor, layers: list[Any]) -> Tensor:
        for layer in layers:
            z, _ = layer(z)
        return standard.log_prob(z)

    def log_det(z: Tensor, layers: list[Any]) -> Tensor:
        return right(z, layers) - base(z, layers).sum(-1)

    refuses(
        names["check_1"],
        [
            ((5, right), "the sum only shows"),
            ((4, lambda z, layers: right(z, layers) + log_det(z, layers)), "this is the published one"),
            ((4, lambda z, layers: base(z, layers).sum(-1)), "log-determinant is missing"),
            ((4, lambda z, layers: right(z, layers) - 2 * log_det(z, layers)), "the sign"),
            ((4, lambda z, layers: base(z, layers) + log_det(z, layers)[:, None] / 2), "Summed up it is right"),
            ((4, lambda z, layers: base(z, layers).mean(-1) + log_det(z, layers)), "base is averaged"),
            ((4, lambda z, layers: 2 * base(z, layers).mean(-1) + log_det(z, layers)), "wrong for D = 5"),
        ],
    )


def test_slips_of_the_mixture(names: dict[str, Any]) -> None:
    check, sample, score = names["check_2"], names["mixture_sample"], names["mixture_log_prob"]

    def each(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return Normal(mean[:, None], (log_var / 2).exp()[:, None]).log_prob(z)

    def ghosts(count: int, log_weight: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        return torch.stack([sample(count, log_weight, mean, log_var)[:, d] for d in range(mean.shape[-1])], -1)

    refuses(
        check,
        [
            (((1, 7), sample, score), "one component for a whole vector is right"),
            (((3, 6), sample, score), "one number a dimension"),
            (((3, 7), lambda n, w, m, v: sample(n, w, m, 2 * v), score), "this is the published one: sd"),
            (((3, 7), lambda n, w, m, v: sample(n, w, m, v / 2), score), "one half too many"),
            (((3, 7), lambda n, w, m, v: sample(n, w, m, -v), score), "sign in the exponent"),
            (((3, 7), lambda n, w, m, v: sample(n, torch.full_like(w, -math.log(2)), m, v), score), "weight is 70"),
            (((3, 7), ghosts, score), "k belongs to the vector"),
            (
                ((3, 7), sample, lambda z, w, m, v: (each(z, m, v) + w[:, None, None]).logsumexp(0).sum(-1)),
                "components mix across dimensions",
            ),
            (
                ((3, 7), sample, lambda z, w, m, v: (each(z, m, v) + w[:, None, None]).sum(-1).logsumexp(0)),
                "weight is in it once per dimension",
            ),
            (
                ((3, 7), sample, lambda z, w, m, v: (each(z, m, v).sum(-1) * w.exp()[:, None]).sum(0)),
                "mean of logarithms",
            ),
            (((3, 7), sample, lambda z, w, m, v: score(z, w, m, 2 * v)), "logarithm of a standard deviation"),
            (((3, 7), sample, lambda z, w, m, v: each(z, m, v).sum(-1).logsumexp(0)), "number of components"),
        ],
    )


def test_slips_of_the_planar_layer(names: dict[str, Any]) -> None:
    right, log_det = names["constrained"], names["planar_log_det"]

    def moved(u: Tensor, w: Tensor, reach: Tensor, square: Tensor) -> Tensor:
        return u + (reach - w @ u) * w / square

    def number_by_number(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return (1 + (1 - torch.tanh(z @ w + b) ** 2)[:, None] * w * u).abs().log().sum(-1)

    def matrix(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return (1 + (1 - torch.tanh(z @ w + b) ** 2)[:, None, None] * torch.outer(u, w)).abs().log()

    def bounded(u_hat: Any) -> tuple[Any, ...]:
        return ((3, 6), "zero", u_hat, log_det)

    def scored(function: Any) -> tuple[Any, ...]:
        return ((3, 6), "zero", right, function)

    refuses(
        names["check_3"],
        [
            (((3, 5), "zero", right, log_det), "Line 5 is not it"),
            (((3, 6), "fine", right, log_det), "they keep their order"),
            (((3, 6), "fold", right, log_det), "they keep their order"),
            (bounded(lambda u, w, slope: moved(u, w, softplus(w @ u) - 1, w.norm())), "not by ‖w‖"),
            (
                bounded(lambda u, w, slope: moved(u, w, (softplus(slope * (w @ u)) - 1) / slope, w.norm())),
                "not by ‖w‖",
            ),
            (bounded(lambda u, w, slope: moved(u, w, softplus(w @ u) - 1, w @ w)), "right for L = 1 only"),
            (bounded(lambda u, w, slope: moved(u, w, softplus(w @ u) - slope, w @ w)), "not −L"),
            (bounded(lambda u, w, slope: u), "nothing is constrained"),
            (bounded(lambda u, w, slope: moved(u, w, softplus(w @ u), w @ w)), "forbids too much"),
            (bounded(lambda u, w, slope: u.abs() * w.sign()), "not along w"),
            (scored(number_by_number), "number by number"),
            (scored(matrix), "not a matrix"),
            (scored(lambda z, u, w, b: (1 + torch.tanh(z @ w + b) * (w @ u)).abs().log()), "tanh itself"),
            (scored(lambda z, u, w, b: log_det(z, u, w, b).exp()), "its logarithm is asked for"),
        ],
    )


def test_slips_of_the_score(names: dict[str, Any]) -> None:
    right = names["get_nll"]

    def first(change: Callable[[Tensor, Tensor], Tensor]) -> Any:
        return lambda p, q, dimensions: (change(p, q), right(p, q, dimensions)[1])

    def second(change: Callable[[Tensor, int], Tensor]) -> Any:
        return lambda p, q, dimensions: (right(p, q, dimensions)[0], change(right(p, q, dimensions)[0], dimensions))

    refuses(
        names["check_4"],
        [
            ((2, right), "log of the mean over K"),
            ((3, first(lambda p, q: -right(p, q, 4)[0])), "the published one"),
            ((3, first(lambda p, q: -(p - q).mean())), "minus the ELBO"),
            ((3, first(lambda p, q: -(p - q).logsumexp(0).mean())), "log K is missing"),
            ((3, first(lambda p, q: 500 * right(p, q, 4)[0])), "per datum is a mean"),
            ((3, second(lambda nats, d: nats / d)), "nats per dimension"),
            ((3, second(lambda nats, d: nats / math.log(2))), "number of dimensions too"),
            ((3, second(lambda nats, d: nats * math.log(2) / d)), "more bits than nats"),
        ],
    )
