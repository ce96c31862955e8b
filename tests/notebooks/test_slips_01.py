"""The exercises of notebook 1: each check refuses its slips with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

Solved = Callable[[str], dict[str, Any]]


def test_slips_are_named(solved: Solved) -> None:
    names = solved("01_the_elbo_in_plain_pyro")
    delta, precision = names["delta"], names["oracle"].precision()
    loss, kl = names["answer_1"], names["kl_to_standard_normal"]

    def turned(loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return ((1 + loc.square()) / scale.square() / 2 - 0.5 + scale.log()).sum(-1)

    slips: list[tuple[str, Any, str]] = [
        ("check_1", -loss, "a loss is positive"),
        ("check_1", 2 * loss, "factor ½"),
        ("check_1", 0.5 * delta @ precision.inverse() @ delta, "you used the covariance"),
        ("check_1", 0.5 * precision.diagonal() @ delta**2, "not its diagonal only"),
        ("check_2", turned, "the first argument is the guide"),
        ("check_2", lambda loc, scale: kl(loc, scale.sqrt()), "used it as a variance"),
        ("check_2", lambda loc, scale: kl(loc, scale) / 3, "the KL is a sum"),
        ("check_2", lambda loc, scale: kl(loc, scale).mean(), "sum over the last dimension"),
        ("check_3", lambda log_weight: log_weight.mean(0), "mean of the logarithms is the ELBO"),
        ("check_3", lambda log_weight: log_weight.logsumexp(0), "divide by K"),
        ("check_3", lambda log_weight: log_weight.exp().mean(0), "its logarithm is asked for"),
        ("check_3", lambda log_weight: log_weight.exp().mean(0).log(), "Use logsumexp"),
        ("check_3", lambda log_weight: log_weight.logsumexp(1), "one bound a datum"),
    ]
    for check, slip, reason in slips:
        with pytest.raises(ValueError, match=reason):
            names[check](slip)
