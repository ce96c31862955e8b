"""Exercises of notebook 2: gradients of an average over draws."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flowvae.course.exercise import Wrong, answered, exercise
from flowvae.course.judging import look_for_slips


def score_gradient(z: Tensor, f: Tensor, mu: float, sigma: float) -> Tensor:
    """At fixed z, ∂ log q / ∂ log σ = σ ∂/∂σ [−log σ − (z − μ)² / 2σ²] = (z − μ)² / σ² − 1."""
    return f * ((z - mu).square() / sigma**2 - 1)


@exercise(
    score_gradient,
    hints=(
        "It is f(z) times the derivative of log q(z) with respect to log σ, at fixed z.",
        "log q(z) = −log σ − (z − μ)² / (2σ²) + const. By the chain rule, ∂/∂log σ = σ ∂/∂σ.",
        "σ ∂/∂σ of −(z − μ)² / (2σ²) is (z − μ)² / σ².",
    ),
)
def score_function(answer: Callable[[Tensor, Tensor, float, float], Tensor]) -> str:
    """Judges a function (z, f, μ, σ) → score-function gradients with respect to log σ, shape (S,)."""
    mu, sigma = 0.7, 1.6
    z = mu + sigma * torch.randn(40, generator=torch.Generator().manual_seed(0))
    f = z.square() + z
    found = answered(answer(z, f, mu, sigma))
    if tuple(found.shape) != (40,):
        raise Wrong(f"the shape is {tuple(found.shape)} and should be (40,): one gradient for each draw.")
    right = score_gradient(z, f, mu, sigma)
    slips = {
        "this is the gradient with respect to σ; by the chain rule, ∂/∂log σ = σ ∂/∂σ.": right / sigma,
        "this is the gradient with respect to μ.": f * (z - mu) / sigma**2,
        "the normalizing constant of q depends on σ, too: −log σ adds −1 to the score.": f
        * (z - mu).square()
        / sigma**2,
        "this is the score alone; multiply by f(z).": right / f,
        "the sign is inverted.": -right,
        "the −1 belongs to the score, so f multiplies it too.": f * (z - mu).square() / sigma**2 - 1,
        "divide by σ², not by σ.": f * ((z - mu).square() / sigma - 1),
        "this is the pathwise gradient; the exercise asks for the score function.": (2 * z + 1) * (z - mu),
    }
    otherwise = f"it is off by up to {(found - right).abs().max():.3g}. Differentiate log q(z) at fixed z."
    look_for_slips(found, right, slips, rtol=1e-4, atol=1e-5, otherwise=otherwise)
    return "Its mean is the derivative of E[f]; for f = z² that is 2σ²."


def best_baseline(f: Tensor, s: Tensor) -> Tensor:
    """The minimum of E[(f − b)² s²] over b: the average of f with weights s²."""
    return (f * s.square()).mean() / s.square().mean()


@exercise(
    best_baseline,
    hints=(
        "The mean of (f − b) s does not depend on b, so minimize E[(f − b)² s²].",
        "Set the derivative with respect to b to zero: E[(f − b) s²] = 0.",
    ),
)
def constant_baseline(answer: Callable[[Tensor, Tensor], Tensor | float]) -> str:
    """Judges a function (f, s) → the constant baseline with the smallest variance."""
    s = torch.randn(500, generator=torch.Generator().manual_seed(0))
    f = (2 + s).square()
    result = answered(answer(f, s))
    if isinstance(result, Tensor) and result.numel() != 1:
        raise Wrong(f"the shape is {tuple(result.shape)}; the baseline is one number.")
    found, right = float(result), float(best_baseline(f, s))
    slips = {
        "this is E[f], a good baseline but not the best: weight the draws by s².": float(f.mean()),
        "this minimizes E[(f − b s)²]; the quantity to minimize is E[(f − b)² s²].": float(
            (f * s).mean() / (s * s).mean()
        ),
        "the draws are weighted by s², not by |s|.": float((f * s.abs()).mean() / s.abs().mean()),
        "divide by the sum of the weights s²: this is a sum and no average.": float((f * s.square()).sum()),
        "divide by E[s²], which is not 1 in general.": float((f * s.square()).mean()),
        "this is the slope of f on s; the quantity to minimize is E[(f − b)² s²].": float(
            ((f - f.mean()) * (s - s.mean())).mean() / s.var(unbiased=False)
        ),
        "the baseline is subtracted from f, so its sign is that of f.": -right,
        "this is the gradient E[f s].": float((f * s).mean()),
    }
    for reason, value in slips.items():
        if math.isclose(found, value, rel_tol=1e-5):
            raise Wrong(reason)
    if not math.isclose(found, right, rel_tol=1e-3):
        raise Wrong(f"{found:.4g} does not minimize the variance. Set the derivative of E[(f − b)² s²] to zero.")
    before, after = float((f * s).var()), float(((f - right) * s).var())
    return f"On the test draws it lowers the variance from {before:.1f} to {after:.1f}."


def leave_one_out_gradient(f: Tensor, s: Tensor) -> Tensor:
    """The baseline of draw k is the mean of the other K − 1 values."""
    others = (f.sum() - f) / (len(f) - 1)
    return ((f - others) * s).mean()


@exercise(
    leave_one_out_gradient,
    hints=(
        "The sum over the others is the sum over all minus the draw's own value.",
        "Divide it by K − 1, subtract it from f, multiply by s and average over the draws.",
    ),
)
def leave_one_out(answer: Callable[[Tensor, Tensor], Tensor | float]) -> str:
    """Judges a function (f, s) → the leave-one-out gradient."""
    s = torch.randn(5, generator=torch.Generator().manual_seed(0))
    f = (2 + s).square()
    result = answered(answer(f, s))
    if isinstance(result, Tensor) and result.numel() != 1:
        raise Wrong(f"the shape is {tuple(result.shape)}; average over the draws.")
    found, right, count = float(result), float(leave_one_out_gradient(f, s)), len(f)
    slips = {
        "the baseline includes the own draw; this shrinks the gradient by (K − 1)/K.": right * (count - 1) / count,
        "this is a sum over the draws; the estimate is their mean.": right * count,
        "there is no baseline in it.": (f * s).mean(),
        "K − 1 belongs to the baseline only; over the draws take the mean, which divides by K.": right
        * count
        / (count - 1),
        "the sum over the other draws is not divided by K − 1.": ((f - (f.sum() - f)) * s).mean(),
        "the mean over the others divides by K − 1, not by K.": ((f - (f.sum() - f) / count) * s).mean(),
        "the baseline is subtracted from f, not added.": ((f + (f.sum() - f) / (count - 1)) * s).mean(),
    }
    otherwise = f"{found:.4g} is not the leave-one-out gradient. Try K = 2: (f₁ − f₂)(s₁ − s₂) / 2."
    look_for_slips(found, right, slips, rtol=1e-4, atol=0, otherwise=otherwise)
    return "It equals the sample covariance of f and s, the one that divides by K − 1."


def minibatch_elbo(log_likelihood: Tensor, log_prior: Tensor, log_guide: Tensor, total: int) -> Tensor:
    """Only the sum over the data is scaled; the unknowns are shared, so their terms occur once."""
    return total / len(log_likelihood) * log_likelihood.sum() + log_prior - log_guide


@exercise(
    minibatch_elbo,
    hints=(
        "The batch stands for all N data points: scale the sum of its log-likelihoods by N/M.",
        "z is shared by all data points. So log p(z) − log q(z) occurs once, without a factor.",
    ),
)
def minibatch(answer: Callable[[Tensor, Tensor, Tensor, int], Tensor | float]) -> str:
    """Judges a function (log_likelihood, log_prior, log_guide, N) → an estimate of the ELBO."""
    log_likelihood = torch.tensor([-1.2, -0.4, -2.5, -1.9])
    log_prior, log_guide, total = torch.tensor(-3.1), torch.tensor(0.8), 100
    result = answered(answer(log_likelihood, log_prior, log_guide, total))
    if isinstance(result, Tensor) and result.numel() != 1:
        raise Wrong(f"the shape is {tuple(result.shape)}; sum over the batch.")
    found, right = float(result), float(minibatch_elbo(log_likelihood, log_prior, log_guide, total))
    batch, rest, factor = float(log_likelihood.sum()), float(log_prior - log_guide), total / len(log_likelihood)
    slips = {
        "the batch has to stand for all N data points: the factor N/M is missing.": batch + rest,
        "only the sum over the data is scaled; the terms of z occur once.": factor * (batch + rest),
        "the factor is N/M, not M/N.": batch / factor + rest,
        "the factor N/M is applied to the mean; apply it to the sum.": factor * batch / len(log_likelihood) + rest,
        "the sum already runs over M data points: scale by N/M, not by N.": total * batch + rest,
        "log q(z) is subtracted.": factor * batch + float(log_prior + log_guide),
        "the signs of log p(z) and log q(z) are exchanged: the ELBO has log p(z) − log q(z).": factor * batch - rest,
        "the terms of z are missing: log p(z) − log q(z).": factor * batch,
        "the terms of z occur once, not N times.": factor * batch + total * rest,
        "this is the loss; the ELBO has the opposite sign.": -right,
        "this is the ELBO per data point; the exercise asks for all data.": right / total,
    }
    otherwise = f"{found:.4g} nats is not the estimate. Scale the data's part, then add log p(z) − log q(z)."
    look_for_slips(found, right, slips, rtol=1e-5, atol=0, otherwise=otherwise)
    return "This is what a subsampled pyro.plate does."
