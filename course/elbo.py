"""Exercises of notebook 3: the ELBO in plain Pyro."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from flowvae.course.exercise import Wrong, exercise
from flowvae.course.judging import look_for_slips, tensor_of
from flowvae.models import LinearGaussian

WEIGHT = torch.tensor([[1.0, 0.6], [0.8, 0.9], [-0.2, 0.7], [0.5, 0.4], [0.9, 0.1]], dtype=torch.float64)
DELTA = torch.tensor([0.3, 0.1], dtype=torch.float64)


def oracle() -> LinearGaussian:
    """The linear-Gaussian model of the notebook, in double precision."""
    return LinearGaussian(WEIGHT, mean=torch.zeros(5, dtype=torch.float64), scale=0.5).requires_grad_(False)


def loss_of_a_shift() -> Tensor:
    """½ δᵀΛδ.

    The entropy of a Gaussian does not depend on its mean, so the ELBO loses

        E[log p(z | x) − log p(z + δ | x)] = ½ E[(z + δ − m)ᵀΛ(z + δ − m) − (z − m)ᵀΛ(z − m)].

    The terms without δ cancel, the mixed term δᵀΛ(z − m) has mean zero, and ½ δᵀΛδ is left.
    """
    return 0.5 * DELTA @ oracle().precision() @ DELTA


@exercise(
    loss_of_a_shift,
    hints=(
        "The evidence does not change, so the ELBO falls by as much as KL(q‖p(z|x)) rises.",
        "log p(z | x) is quadratic in z, with precision Λ. Average it over q before and after the shift.",
    ),
    value=True,
)
def shift(answer: float | Tensor) -> str:
    """Judges the loss of ELBO, in nats, when the guide's mean is shifted by δ."""
    found, precision = tensor_of(answer, (), "one number of nats"), oracle().precision()
    loss = loss_of_a_shift()
    slips = {
        "a loss is positive here, because the ELBO falls.": -loss,
        "there is a factor ½ in the exponent of a Gaussian.": 2 * loss,
        "Λ is the precision, the inverse of the covariance; you used the covariance.": (
            0.5 * DELTA @ precision.inverse() @ DELTA
        ),
        "the posterior's dimensions are correlated: use all of Λ, not only its diagonal.": (
            0.5 * precision.diagonal() @ DELTA**2
        ),
    }
    otherwise = f"{found:.4g} nats is not the loss. Average log p(z | x) − log p(z + δ | x) over z ~ q."
    look_for_slips(found, loss, slips, rtol=1e-2, atol=0, otherwise=otherwise)
    return f"The ELBO loses {loss:.4f} nats for every x."


def kl_to_standard_normal(loc: Tensor, scale: Tensor) -> Tensor:
    """One dimension contributes ½ (σ² + μ² − 1) − log σ, and independent dimensions add."""
    return (0.5 * (scale.square() + loc.square() - 1) - scale.log()).sum(-1)


@exercise(
    kl_to_standard_normal,
    hints=(
        "The KL is E_q[log q(z) − log p(z)], and both densities are Gaussian.",
        "E_q[z²] = μ² + σ² in each dimension, and E_q[(z − μ)²] = σ².",
    ),
)
def kl(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Judges a function (loc, scale) → KL(N(loc, scale²)‖N(0, I)), shape (N,)."""
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(50, 3, generator=generator)
    scale = torch.rand(50, 3, generator=generator) + 0.2
    found = tensor_of(answer(loc, scale), (50,), "sum over the last dimension")
    q, p = Independent(Normal(loc, scale), 1), Independent(Normal(torch.zeros(50, 3), torch.ones(50, 3)), 1)
    right = kl_divergence(q, p)
    slips = {
        "this is KL(p‖q); the first argument is the guide.": kl_divergence(p, q),
        "the sign is inverted: a KL is never negative.": -right,
        "a factor ½ is missing.": 2 * right,
        "scale is a standard deviation; you used it as a variance.": kl_divergence(
            Independent(Normal(loc, scale.sqrt()), 1), p
        ),
        "the KL is a sum over the dimensions of a code, not a mean.": right / 3,
        "the logarithm has the wrong sign: a narrow guide has a large KL.": right + 2 * scale.log().sum(-1),
        "log σ² is 2 log σ: half of the logarithm is missing.": right + 0.5 * scale.log().sum(-1),
        "a KL of zero is possible, for μ = 0 and σ = 1; there yours is not zero.": right + 0.5 * 3,
    }
    otherwise = f"it is off by up to {(found - right).abs().max():.3g} nats. Try one dimension first."
    look_for_slips(found, right, slips, rtol=1e-3, atol=1e-5, otherwise=otherwise)
    return "It has no variance. The estimate by draws works for any prior, flows included."


def log_evidence_bound(log_weight: Tensor) -> Tensor:
    """`logsumexp` subtracts the largest log-weight before it exponentiates, so nothing underflows."""
    return log_weight.logsumexp(0) - math.log(len(log_weight))


@exercise(
    log_evidence_bound,
    hints=(
        "The mean is inside the logarithm.",
        "log (1/K) Σ w_k = log Σ exp(log w_k) − log K; torch has a function for the first term.",
    ),
)
def bound(answer: Callable[[Tensor], Tensor]) -> str:
    """Judges a function from log-weights (K, N) to the bound log (1/K) Σ w_k, shape (N,)."""
    model, generator = oracle(), torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=generator, dtype=torch.float64)
    posterior, q = model.posterior(x), model.mean_field(x)
    noise = torch.randn(200, 400, 2, generator=generator, dtype=torch.float64)
    z = q.mean + q.stddev * noise
    evidence = model.log_evidence(x)
    weights = evidence + posterior.log_prob(z) - q.log_prob(z)  # log p(x, z) − log q(z)
    found = tensor_of(answer(weights), (400,), "one bound for each image")
    right = weights.logsumexp(0) - math.log(len(weights))
    slips = {
        "this is the mean of the weights; the exercise asks for its logarithm.": weights.exp().mean(0),
        "the mean of the logarithms is the ELBO; here the logarithm is outside.": weights.mean(0),
        "this is the logarithm of the sum; divide by K.": weights.logsumexp(0),
        "the sum is divided by K inside the logarithm: outside, subtract log K.": weights.logsumexp(0) / len(weights),
        "K is the number of draws, the first dimension; you used the number of images.": (
            weights.logsumexp(0) - math.log(weights.shape[1])
        ),
    }
    look_for_slips(found, right, slips, rtol=1e-5, atol=1e-8, unit="nats")
    if not torch.isfinite(answer(weights - 2000)).all():
        raise Wrong("this is right for ordinary weights, but exp(−2000) is 0 in a computer. Use logsumexp.")
    return f"K = 200 draws shrink the gap of {model.mean_field_gap():.4f} nats to {(evidence - right).mean():.4f}."
