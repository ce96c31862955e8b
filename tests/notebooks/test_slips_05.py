"""The exercises of notebook 5: each check refuses its slips with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from flowvae import IAF, Inverse, Mixture, RealNVP
from flowvae.flows import GF, Linear

Solved = Callable[[str], dict[str, Any]]


def log_normal(value: Tensor, mean: Tensor | float = 0.0, sd: Tensor | float = 1.0) -> Tensor:
    return torch.distributions.Normal(mean * torch.ones_like(value), sd).log_prob(value).sum(-1)


def test_slips_are_named(solved: Solved) -> None:
    names = solved("05_the_prior_becomes_a_flow")
    right, base, standard = names["log_density"], names["base"], torch.distributions.Normal(0.0, 1.0)
    slips: list[tuple[str, Any, str]] = [
        ("check_1", lambda x: standard.log_prob(2 * x.log()), "base density alone"),
        ("check_1", lambda x: right(x).exp(), "logarithm is asked for"),
        ("check_1", lambda x: standard.log_prob(x.log()) - x.log(), "the ½ matters"),
        ("check_2", (80, 5), "prices of an IAF"),
        ("check_2", (5, 5), "number by number"),
        ("check_3", replace(base, prior=IAF()), "one of them is dear"),
        ("check_3", replace(base, prior=RealNVP(), latent=3), "latent differs"),
        ("check_3", base, "still that of base"),
        ("check_3", replace(base, prior=GF()), r"GF is not a normalized density.*bisection"),
        ("check_3", replace(base, prior=Mixture()), "Mixture is not a flow"),
    ]
    for check, slip, reason in slips:
        with pytest.raises(ValueError, match=reason):
            names[check](slip)
    for cheap in (Linear(), Inverse(RealNVP())):
        names["check_3"](replace(base, prior=cheap))
    chen_slips_are_named(names)


def chen_slips_are_named(names: dict[str, Any]) -> None:
    """Exercise 4: the two ELBOs of Chen et al., each with one thing wrong."""
    check, flow_prior, warped = names["check_4"], names["elbo_flow_prior"], names["elbo_warped_guide"]

    def written(score: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def elbo(noise: Tensor, loc: Tensor, scale: Tensor, to_base: Any, from_base: Any, fit: Any) -> Tensor:
            z = loc + scale * noise
            return score(z, *to_base(z), log_normal(z, loc, scale), to_base, from_base, fit)

        return elbo

    for score, reason in (
        (lambda z, e, d, q, to, out, fit: fit(z) + log_normal(e) - q, "log-determinant is missing"),
        (lambda z, e, d, q, to, out, fit: fit(z) + log_normal(e) - d - q, "the sign of the log-determinant"),
        (lambda z, e, d, q, to, out, fit: fit(z) + log_normal(e) + to(e)[1] - q, "taken at ε"),
        (lambda z, e, d, q, to, out, fit: fit(z) + log_normal(e) - out(z)[1] - q, "T is taken at z"),
        (lambda z, e, d, q, to, out, fit: fit(z) + log_normal(z) + d - q, "base density is taken at z"),
        (lambda z, e, d, q, to, out, fit: fit(e) + log_normal(e) + d - q, "decoder got ε"),
        (lambda z, e, d, q, to, out, fit: fit(z) + log_normal(e) + 3 * d - q, "once per dimension"),
        (lambda z, e, d, q, to, out, fit: fit(z) + log_normal(e) + d, "log q is missing"),
        (lambda z, e, d, q, to, out, fit: -(fit(z) + log_normal(e) + d - q), "it is the loss"),
        (lambda z, e, d, q, to, out, fit: (fit(z) + log_normal(e) + d - q).mean(), "one ELBO a draw"),
        (lambda z, e, d, q, to, out, fit: (fit(z) + log_normal(e) + d - q).float(), "single precision"),
    ):
        with pytest.raises(ValueError, match=f"elbo_flow_prior: .*{reason}"):
            check(written(score), warped)
    for score, reason in (
        (lambda z, e, d, q, to, out, fit: fit(out(e)[0]) + log_normal(e) - q, "its density changes"),
        (lambda z, e, d, q, to, out, fit: fit(out(e)[0]) + log_normal(e) - d - q, "gets thinner"),
        (lambda z, e, d, q, to, out, fit: fit(out(e)[0]) + log_normal(e) + 2 * d - q, "in it twice"),
        (lambda z, e, d, q, to, out, fit: fit(out(e)[0]) + log_normal(e) - out(z)[1] - q, "T is applied at ε"),
        (lambda z, e, d, q, to, out, fit: fit(e) + log_normal(e) + d - q, "deeper decoder is g∘T"),
        (lambda z, e, d, q, to, out, fit: fit(out(z)[0]) + log_normal(z) - q, "plain guide: another VAE"),
    ):
        with pytest.raises(ValueError, match=f"elbo_warped_guide: .*{reason}"):
            check(flow_prior, written(score))
    with pytest.raises(ValueError, match="this is the first VAE once more"):
        check(flow_prior, flow_prior)
