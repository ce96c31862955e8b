"""Exercises of notebook 15: learned priors."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from flowvae.course.exercise import Wrong, answered, exercise
from flowvae.course.judging import look_for_slips


def information_and_gap(log_q: Tensor, log_prior: Tensor) -> tuple[Tensor, Tensor]:
    """Add and subtract log q̄(z_n), where q̄(z) = (1/N) Σ_m q(z | x_m).

    Then E_n[log q(z_n | x_n) − log p(z_n)] splits into I = E[log q(z_n | x_n) − log q̄(z_n)] and
    KL(q̄‖p) = E[log q̄(z_n) − log p(z_n)].
    """
    aggregated = log_q.logsumexp(1) - math.log(len(log_q))
    return (log_q.diagonal() - aggregated).mean(), (aggregated - log_prior).mean()


@exercise(
    information_and_gap,
    hints=(
        "log q̄(z_n) is the logarithm of the mean of row n: z_n is scored under the posteriors of all images.",
        "I uses the diagonal, log q(z_n | x_n), and KL(q̄‖p) uses log_prior. Their sum is the mean KL.",
    ),
)
def surgery(answer: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> str:
    """Judges a function (log q(z_n | x_m) of shape (N, N), log p(z_n)) → (I, KL(q̄‖p)), in nats."""
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    scale = 0.2 + 0.3 * torch.rand(60, 2, generator=generator, dtype=torch.float64)
    z = loc + scale * torch.randn(60, 2, generator=generator, dtype=torch.float64)
    log_q = Normal(loc, scale).log_prob(z.unsqueeze(1)).sum(-1)  # row: code, column: image
    log_prior = Normal(torch.zeros(2, dtype=torch.float64), 1.0).log_prob(z).sum(-1)
    found = answered(answer(log_q, log_prior))
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Wrong("return two numbers, I and KL(q̄‖p).")
    information, gap = (torch.as_tensor(part, dtype=torch.float64) for part in found)
    if information.ndim or gap.ndim:
        raise Wrong("both are means over the codes: return two numbers, not one for each code.")
    own = log_q.diagonal()
    others = {
        "the 1/N of q̄ is missing: log q̄ is the logarithm of a mean.": log_q.logsumexp(1),
        "the logarithm of q̄ is outside of the mean over images; a mean of logarithms is another number.": log_q.mean(1),
        "row n holds one code under all images; you summed over the codes of one image.": log_q.logsumexp(0)
        - math.log(60),
    }
    mixture = MixtureSameFamily(Categorical(torch.ones(60).double()), Independent(Normal(loc, scale), 1))
    log_aggregated = mixture.log_prob(z)
    expected = (own - log_aggregated).mean(), (log_aggregated - log_prior).mean()

    def same(pair: tuple[Tensor, Tensor]) -> bool:
        return torch.allclose(information, pair[0], atol=1e-6) and torch.allclose(gap, pair[1], atol=1e-6)

    if same((expected[1], expected[0])):
        raise Wrong("the two are exchanged: I comes first.")
    for reason, value in others.items():
        if same(((own - value).mean(), (value - log_prior).mean())):
            raise Wrong(reason)
    if not same(expected):
        wrong = "I" if not torch.allclose(information, expected[0], atol=1e-6) else "KL(q̄‖p)"
        raise Wrong(f"{wrong} is off by {max(abs(information - expected[0]), abs(gap - expected[1])):.3g} nats.")
    return f"I = {expected[0]:.2f} of at most log 60 = {math.log(60):.2f} nats; a prior can save {expected[1]:.2f}."


def log_mixture(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """First the log-density of each whole code under each component, then the logarithm of the mean over components."""
    components = Normal(loc, scale).log_prob(z.unsqueeze(1)).sum(-1)  # (N, K)
    return components.logsumexp(1) - math.log(len(loc))


@exercise(
    log_mixture,
    hints=(
        "A component is a density of the whole code: sum its log-density over the dimensions before you mix.",
        "Normal(loc, scale).log_prob(z.unsqueeze(1)) has shape (N, K, D). Which dimension is summed, which is mixed?",
    ),
)
def vamp(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """Judges a function (z, loc, scale) → log (1/K) Σ_k N(z; loc_k, diag scale_k²), shape (N,)."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    loc = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    scale = 0.3 + torch.rand(6, 4, generator=generator, dtype=torch.float64)
    found = answered(answer(z, loc, scale))
    if tuple(found.shape) != (50,):
        raise Wrong(f"the shape is {tuple(found.shape)} and should be (50,): one log-density for each code.")
    right = MixtureSameFamily(Categorical(torch.ones(6).double()), Independent(Normal(loc, scale), 1)).log_prob(z)
    each = Normal(loc, scale).log_prob(z.unsqueeze(1))
    slips = {
        "you mixed each dimension separately: such a prior has K to the power of D components.": (
            each.logsumexp(1) - math.log(6)
        ).sum(-1),
        "1/K is missing: such a prior integrates to K.": right + math.log(6),
        "the mean of the logarithms is not the logarithm of the mean.": each.sum(-1).mean(1),
        "this is a density; the exercise asks for its logarithm.": right.exp(),
        "scale is a standard deviation; you used it as a variance.": log_mixture(z, loc, scale.sqrt()),
    }
    otherwise = f"it is off by up to {(found - right).abs().max():.3g} nats. Try one component first."
    look_for_slips(found, right, slips, rtol=1e-5, atol=1e-8, otherwise=otherwise)
    if not torch.isfinite(answer(z + 100, loc, scale)).all():
        raise Wrong("this is right, but far from all components every density is 0 in a computer. Use logsumexp.")
    return "With the posteriors of pseudo-inputs as components, this is a VampPrior."


SHIFT = 1.5


def log_constant(log_odds: Tensor) -> Tensor:
    """The constant is an average under the base: Z = ∫ p_0(z) r(z) dz = E_{p_0}[r(z)]."""
    return log_odds.logsumexp(0) - math.log(len(log_odds))


@exercise(
    log_constant,
    hints=(
        "p(z) = p_0(z) r(z) / Z has to integrate to one. Write Z as an average over draws of p_0.",
        "Z ≈ (1/M) Σ r(z_m), and the argument is log r(z_m).",
    ),
)
def constant(answer: Callable[[Tensor], Tensor]) -> str:
    """Judges a function from log r(z_m) at draws z_m ~ p_0, shape (M,), to an estimate of log Z."""
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_odds = SHIFT * z - SHIFT**2 / 2 + 0.7  # the best classifier of N(1.5, 1) against N(0, 1), and a constant error
    found = torch.as_tensor(answered(answer(log_odds)), dtype=torch.float64)
    if found.ndim:
        raise Wrong(f"the shape is {tuple(found.shape)}; log Z is one number.")
    slips = {
        "this is the mean of log r. The average is inside the logarithm: log E[r], not E[log r].": log_odds.mean(),
        "this is Z; the exercise asks for its logarithm.": log_odds.exp().mean(),
        "the number of draws M is missing.": log_odds.logsumexp(0),
        "the sign is inverted.": -log_constant(log_odds),
        "these are the probabilities of the classifier; Z needs its odds r = D/(1 − D).": (
            log_odds.sigmoid().mean().log()
        ),
    }
    for reason, value in slips.items():
        if torch.allclose(found, value, atol=1e-3):
            raise Wrong(reason)
    if not math.isclose(found.item(), 0.7, abs_tol=0.03):  # exact, since E[exp(1.5 z − 1.5²/2)] = 1
        raise Wrong(f"{found.item():.3f} is not log Z. The exact value is known here: it is the classifier's error.")
    if not torch.isfinite(torch.as_tensor(answer(log_odds + 2000))):
        raise Wrong("this is right, but exp(2000) overflows. Use logsumexp.")
    effective = log_odds.softmax(0).square().sum().reciprocal().item() / len(log_odds)
    return f"{found.item():.3f}, exact 0.7. The share of effective draws is {effective:.2f}."
