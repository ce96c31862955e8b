"""Exercises of notebook 1: inference from nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowvae.course.exercise import Wrong, answered, exercise
from flowvae.course.judging import look_for_slips


def _pair(result: Any, names: str) -> tuple[float, float]:
    """Converts a pair, given as a tuple, a list or a tensor, to two numbers."""
    if isinstance(result, Tensor):
        result = result.tolist()
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Wrong(f"return the pair {names}.")
    return float(result[0]), float(result[1])


def coin_log_evidence(heads: float, tails: float, a: float, b: float) -> float:
    """The evidence is B(a + heads, b + tails) / B(a, b); its logarithm does not overflow for large counts."""

    def log_beta(a: float, b: float) -> float:
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    return log_beta(a + heads, b + tails) - log_beta(a, b)


@exercise(
    coin_log_evidence,
    hints=(
        "p(x) is the integral of z^(heads + a − 1) (1 − z)^(tails + b − 1) / B(a, b).",
        "∫ z^(α − 1) (1 − z)^(β − 1) dz = B(α, β), so the evidence is a ratio of two Beta functions.",
        "log B(a, b) = lgamma(a) + lgamma(b) − lgamma(a + b), with math.lgamma.",
    ),
)
def evidence(answer: Callable[[float, float, float, float], float]) -> str:
    """Judges a function (heads, tails, a, b) → log p(x) of one sequence, in nats."""
    case = (7, 2, 1.5, 3.0)
    found, right = float(answered(answer(*case))), coin_log_evidence(*case)
    heads, tails, a, b = case
    slips = {
        "this is p(x); the exercise asks for its logarithm.": math.exp(right),
        "this is the probability of the number of heads in any order; the data are one sequence.": right
        + math.log(math.comb(heads + tails, heads)),
        "divide by B(a, b): the prior has a normalizing constant.": right
        + math.lgamma(a)
        + math.lgamma(b)
        - math.lgamma(a + b),
        "heads belong to a, and tails to b.": coin_log_evidence(tails, heads, a, b),
        "the sign is inverted: a probability has a negative logarithm.": -right,
        "this is the largest likelihood, at z = heads/N; average the likelihood over the prior.": heads
        * math.log(heads / (heads + tails))
        + tails * math.log(tails / (heads + tails)),
        "this is the likelihood at the prior mean; average the likelihood over the prior.": heads
        * math.log(a / (a + b))
        + tails * math.log(b / (a + b)),
        "B has a third factor: B(a, b) = Γ(a) Γ(b) / Γ(a + b), for the posterior's parameters as well.": math.lgamma(
            a + heads
        )
        + math.lgamma(b + tails)
        - math.lgamma(a + b),
        "this is the likelihood at the posterior mean; average the likelihood over the prior.": heads
        * math.log((a + heads) / (a + b + heads + tails))
        + tails * math.log((b + tails) / (a + b + heads + tails)),
    }
    otherwise = f"for {heads} heads, {tails} tails, a = {a:g}, b = {b:g} you give {found:.4f} nats. Integrate over z."
    look_for_slips(found, right, slips, rtol=1e-6, atol=0, otherwise=otherwise)
    try:
        large = float(answer(3000, 2000, 1.0, 1.0))
    except (OverflowError, ZeroDivisionError, ValueError):
        large = math.nan
    if not math.isclose(large, coin_log_evidence(3000, 2000, 1.0, 1.0), rel_tol=1e-6):
        raise Wrong("this is right for few flips, but over- or underflows for 5000. Work with lgamma, not with gamma.")
    return "With a = b = 1 the evidence is 1 / ((N + 1) · C(N, heads)): every number of heads is equally probable."


def forward_fit(weights: Tensor, locs: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """The forward KL matches mean and variance: Var = E[z²] − E[z]², with E[z²] = Σ π (σ² + m²)."""
    mean = (weights * locs).sum()
    variance = (weights * (scales.square() + locs.square())).sum() - mean.square()
    return mean, variance.sqrt()


@exercise(
    forward_fit,
    hints=(
        "The forward KL is smallest if q has the mean and the variance of the mixture.",
        "Var(z) = E[z²] − E[z]², and E[z²] is a weighted sum over the components.",
        "In component k, E[z²] = σ_k² + m_k².",
    ),
)
def moments(answer: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> str:
    """Judges a function (weights, locs, scales) → (μ, σ) of the best Gaussian in forward KL."""
    weights, locs = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([-2.0, 0.5, 3.6])
    scales = torch.tensor([0.5, 1.0, 1.5])
    result = answered(answer(weights, locs, scales))
    mean, scale = _pair(result, "(μ, σ)")
    right_mean, right = (float(value) for value in forward_fit(weights, locs, scales))
    if math.isclose(mean, float(locs.mean()), rel_tol=1e-4):
        raise Wrong("the mean has to be weighted by the components' probabilities.")
    if math.isclose(mean, float(locs[weights.argmax()]), rel_tol=1e-4):
        raise Wrong(
            "this is one of the components, which the reverse KL would choose. The forward KL covers all of them."
        )
    if not math.isclose(mean, right_mean, rel_tol=1e-4):
        raise Wrong(f"μ = {mean:.4g} is not the mean of the mixture.")
    within = float((weights * scales.square()).sum())
    slips = {
        "this is the variance; the exercise asks for σ.": right**2,
        "the variance within the components is missing.": math.sqrt(right**2 - within),
        "this is only the mean of the variances; the distance between the means adds to it.": math.sqrt(within),
        "variances can be averaged, standard deviations cannot.": float((weights * scales).sum()),
        "subtract the square of the mean: Var(z) = E[z²] − E[z]².": math.sqrt(right**2 + right_mean**2),
    }
    otherwise = f"μ is right, but σ = {scale:.4g} is not the standard deviation of the mixture."
    look_for_slips(scale, right, slips, rtol=1e-4, atol=0, otherwise=otherwise)
    return f"σ = {right:.3f} is larger than that of any component: the fit also covers the valleys."


def update_coordinate(i: int, mean: Tensor, center: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The factor is the conditional p(z_i | z_j = mean_j for all j ≠ i), with Λ the inverse covariance."""
    precision = covariance.inverse()
    shift = mean - center
    rest = precision[i] @ shift - precision[i, i] * shift[i]  # the sum over j ≠ i
    return center[i] - rest / precision[i, i], 1 / precision[i, i]


@exercise(
    update_coordinate,
    hints=(
        "The update is written with the precision Λ, the inverse of the covariance.",
        "The sum runs over j ≠ i: take the whole product Λ_i · (mean − center) and subtract the term j = i.",
        "The variance of the factor is 1 / Λ_ii.",
    ),
)
def coordinate(answer: Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> str:
    """Judges a function (i, mean, center, covariance) → (new mean[i], variance of the factor)."""
    center, mean = torch.tensor([1.0, -0.5, 2.0]), torch.tensor([0.2, 0.9, 1.1])
    covariance = torch.tensor([[1.0, 0.7, 0.2], [0.7, 2.0, -0.5], [0.2, -0.5, 1.5]])
    given = mean.clone()
    result = answered(answer(1, given, center, covariance))
    if not torch.equal(given, mean):
        raise Wrong("your function changed its argument mean; return the new value instead.")
    location, variance = _pair(result, "(new mean[i], variance)")
    right, right_variance = (float(value) for value in update_coordinate(1, mean, center, covariance))
    precision = covariance.inverse()
    shift = mean - center
    rest = float(precision[1] @ shift - precision[1, 1] * shift[1])
    with_covariance = float(covariance[1] @ shift - covariance[1, 1] * shift[1])
    diagonal, middle = float(precision[1, 1]), float(center[1])
    slips = {
        "use the precision, the inverse of the covariance.": middle - with_covariance / float(covariance[1, 1]),
        "the sign is inverted: with Λ_ij < 0 the coordinates pull each other up.": middle + rest / diagonal,
        "the sum runs over j ≠ i; you included j = i.": middle - float(precision[1] @ shift) / diagonal,
        "divide the sum by Λ_ii.": middle - rest,
        "the sum contains mean_j − center_j, not mean_j alone.": middle
        - float(precision[1] @ mean - precision[1, 1] * mean[1]) / diagonal,
    }
    slips["the new mean starts from the target's center[i], not from the guide's mean[i]."] = (
        float(mean[1]) - rest / diagonal
    )
    otherwise = f"the new mean {location:.4g} is not the conditional mean of coordinate 1."
    look_for_slips(location, right, slips, rtol=1e-4, atol=0, otherwise=otherwise)
    spreads = {
        "this is the marginal variance; CAVI gives the conditional one.": float(covariance[1, 1]),
        "this is the precision of the factor; its inverse is the variance.": diagonal,
        "this is a standard deviation; the exercise asks for the variance.": right_variance**0.5,
        "Λ_ii is an entry of the inverse matrix, and not 1/Σ_ii.": 1 / float(covariance[1, 1]),
    }
    otherwise = f"the mean is right, but the variance {variance:.4g} is not."
    look_for_slips(variance, right_variance, spreads, rtol=1e-4, atol=0, otherwise=otherwise)
    return (
        f"The factor's variance is {right_variance:.3f}; the true marginal variance is {float(covariance[1, 1]):.3f}."
    )


def update_responsibilities(x: Tensor, mean: Tensor, variance: Tensor, weights: Tensor) -> Tensor:
    """The exponent is log π_k + E[log N(x_n; m_k, 1)] + const; a softmax normalizes it over k."""
    expected = -0.5 * ((x[:, None] - mean).square() + variance)
    return (weights.log() + expected).softmax(-1)


@exercise(
    update_responsibilities,
    hints=(
        "log r_nk = E[log p(c_n = k)] + E[log p(x_n | c_n = k, m)] + const, both averaged over the guide.",
        "E[(x_n − m_k)²] = (x_n − μ_k)² + s_k².",
        "Normalize over k with softmax(-1).",
    ),
)
def responsibilities(answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> str:
    """Judges a function (x, mean, variance, weights) → r of shape (N, K)."""
    x, mean = torch.tensor([-2.0, -0.3, 0.1, 1.5, 2.5]), torch.tensor([-1.0, 0.5, 2.0])
    variance, weights = torch.tensor([0.9, 0.2, 0.5]), torch.tensor([0.5, 0.2, 0.3])
    found = answered(answer(x, mean, variance, weights))
    if tuple(found.shape) != (5, 3):
        raise Wrong(f"the shape is {tuple(found.shape)} and should be (N, K) = (5, 3).")
    right = update_responsibilities(x, mean, variance, weights)
    squares = (x[:, None] - mean).square()
    slips = {
        "the uncertainty of the means is missing: E[(x − m)²] = (x − μ)² + s². (Without it this is EM.)": (
            weights.log() - 0.5 * squares
        ).softmax(-1),
        "the group probabilities π_k are missing.": (-0.5 * (squares + variance)).softmax(-1),
        "the uncertainty s² of the means and the group probabilities π_k are both missing.": (-0.5 * squares).softmax(
            -1
        ),
        "this averages the density over m_k; the rule averages its logarithm.": (
            weights.log() - 0.5 * squares / (1 + variance) - 0.5 * (1 + variance).log()
        ).softmax(-1),
        "s² lowers the expected log-likelihood; check its sign.": (weights.log() - 0.5 * (squares - variance)).softmax(
            -1
        ),
        "the data have unit variance; s² is not the variance of x.": (weights.log() - 0.5 * squares / variance).softmax(
            -1
        ),
        "normalize over the groups k, not over the data.": (weights.log() - 0.5 * (squares + variance)).softmax(0),
        "a factor ½ is missing in the exponent.": (weights.log() - (squares + variance)).softmax(-1),
        "π_k enters through its logarithm.": (weights - 0.5 * (squares + variance)).softmax(-1),
    }
    otherwise = f"they are off by up to {(found - right).abs().max():.3g}."
    if not torch.allclose(found.sum(-1), torch.ones(5, dtype=found.dtype), atol=1e-5):
        otherwise = "the responsibilities of a data point must sum to one."
    look_for_slips(found, right, slips, rtol=1e-5, atol=1e-5, otherwise=otherwise)
    return "A group whose mean is uncertain gets less: the factor exp(−s²/2) is what separates this from EM."
