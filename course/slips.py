"""Exercises of notebook 10, slips in densities: the product rule, a flow prior, a KL divergence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from flowvae.core.seeds import seeded
from flowvae.course.exercise import Wrong, answered, exercise
from flowvae.course.judging import line, look_for_slips, tensor_of

Layer = Callable[[Tensor], tuple[Tensor, Tensor]]
STANDARD = Normal(0.0, 1.0)
BITS = 8
CELL, SIDE = 0.04, 12.0


def plane() -> Tensor:
    """Returns the centres of the cells of a grid on the square [−12, 12]², shape (360 000, 2)."""
    side = torch.arange(-SIDE + CELL / 2, SIDE, CELL, dtype=torch.float64)
    return torch.cartesian_prod(side, side)


def integral(log_density: Tensor) -> float:
    """Integrates a density over the square, given its logarithm at the points of `plane()`."""
    return log_density.exp().sum().item() * CELL**2


class Coupling:
    """A coupling layer on the plane, normalizing direction: z (N, 2) → u (N, 2) and log|det ∂u/∂z| (N,)."""

    def __init__(self, kept: int) -> None:
        self.kept = kept

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = z[:, self.kept], z[:, 1 - self.kept]
        s = 0.5 * torch.sin(1.5 * kept)
        pair = (kept, s.exp() * moved + 0.3 * kept)
        return torch.stack(pair if self.kept == 0 else pair[::-1], -1), s


LAYERS: list[Layer] = [Coupling(0), Coupling(1), Coupling(0)]
OTHER_ORDER = "right for LAYERS, which are the same in both orders. For two layers it is wrong: call layers[0] first."


def through(z: Tensor, layers: Sequence[Layer]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Returns log N(u_d; 0, 1) per dimension, the sum of the log-determinants, and each of them."""
    each = []
    for layer in layers:
        z, term = layer(z)
        each.append(term)
    return STANDARD.log_prob(z), torch.stack(each).sum(0), each


def points(*shape: int, scale: float = 1.5) -> Tensor:
    """Returns points at which answers are compared."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def total_of_sums() -> int:
    """D 2^(D−1).

    Take the i-th term, p(x_i | x_<i), and sum it over all x. Over x_i it gives 1, for every x_<i. There are 2^(i−1)
    values of x_<i and 2^(D−i) of the variables after i, so the i-th term sums to 2^(D−1), and there are D terms.
    """
    return BITS * 2 ** (BITS - 1)


@exercise(
    total_of_sums,
    hints=(
        "Exchange the two sums: take one term p(x_i | x_<i), and sum it over all rows x.",
        "Summed over x_i alone, it is 1 for every choice of the other seven bits.",
    ),
    value=True,
)
def rows(answer: float) -> str:
    """Judges the sum over all rows of 8 bits of Σ_i p(x_i | x_<i)."""
    slips = {
        1.0: "1 is the total of the product of the conditionals, which is a probability.",
        2.0**BITS: "this is the number of rows.",
        float(BITS): "each term sums to 1 over x_i alone; the other seven bits still take all their values.",
        BITS * 2.0**BITS: "p(x_i | x_<i) sums to 1 over the two values of x_i, so to less than the number of rows.",
        2.0 ** (BITS - 1): "this is right for one of the terms.",
    }
    try:
        found = float(answer)
    except (TypeError, ValueError):
        raise Wrong("answer with a number.") from None
    if found in slips:
        raise Wrong(slips[found])
    if found != total_of_sums():
        raise Wrong(f"{found:g} is not the total. Begin with D = 1, then D = 2.")
    return "A function with this total is not a probability. The product has the total 1 for any conditionals."


def log_joint(conditionals: Tensor) -> Tensor:
    """A product of probabilities is a sum of their logarithms, and that does not underflow."""
    return conditionals.log().sum(-1)


@exercise(log_joint, hints=("Which operation of the formula becomes a sum when you take the logarithm?",))
def joint(answer: Callable[[Tensor], Tensor]) -> str:
    """Judges a function p(x_i | x_<i) (N, D) → log p(x) (N,)."""
    p = 0.1 + 0.8 * torch.rand(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = tensor_of(answer(p), (20,), "one number per row")
    slips = {
        "this is the formula with Σ.": p.sum(-1),
        "this is the logarithm of the formula with Σ. The logarithm comes first, then the sum.": p.sum(-1).log(),
        "this is p(x); its logarithm is asked for.": p.prod(-1),
        "a mean of logarithms is log p(x) / D.": p.log().mean(-1),
    }
    look_for_slips(found, log_joint(p), slips, unit="nats")
    long = torch.full((1, 5000), 0.5, dtype=torch.float64)
    if not torch.isfinite(answer(long)).all():
        raise Wrong("right for 6 variables, but 0.5 to the power 5000 is 0 in a computer. Sum the logarithms.")
    return "In the log domain a sum is right; the formula with Σ lacks the logarithms."


def wrong_line_of_the_prior() -> int:
    """Line 4 adds the vector's log-determinant to every dimension; the sum of line 5 then counts it D times."""
    return 4


prior_line = line(
    "prior_line",
    wrong_line_of_the_prior,
    {
        1: "before the first layer the log-determinant is 0, one number per vector",
        2: "a layer takes the output of the layer before it",
        3: "logarithms of determinants add",
        5: "a KL of independent dimensions is a sum over them; it only shows what came in from the prior",
    },
    "How often is the log-determinant counted in the result?",
)


def flow_log_prob(z: Tensor, layers: Sequence[Layer]) -> Tensor:
    """The base is summed over the dimensions; the log-determinant belongs to the vector as a whole."""
    log_det = torch.zeros(len(z))
    for layer in layers:
        z, term = layer(z)
        log_det = log_det + term
    return STANDARD.log_prob(z).sum(-1) + log_det


@exercise(
    flow_log_prob,
    hints=(
        "log p(z) = log p_u(u) + log|det ∂u/∂z|. Both terms are one number per vector.",
        "p_u is a product over the dimensions, so sum log N(u_d; 0, 1) over them, and only then add.",
    ),
)
def prior(answer: Callable[[Tensor, Sequence[Layer]], Tensor]) -> str:
    """Judges the log-density (z, layers) → (N,) of a flow prior."""
    z = points(200, 2)
    base, total, each = through(z, LAYERS)
    result = answered(answer(z, LAYERS))
    if result.shape == z.shape and torch.allclose(result.sum(-1).double(), base.sum(-1) + total):
        raise Wrong("summed up it is right, but a density of vectors is one number per vector: shape (N,).")
    slips = {
        "this is the formula as seen: the log-determinant counts once per dimension.": base.sum(-1) + 2 * total,
        "the log-determinant is missing.": base.sum(-1),
        "the sign: these log-determinants are of the normalizing direction; add them.": base.sum(-1) - total,
        "the base is averaged over the dimensions; it should be summed.": base.mean(-1) + total,
        "half of the log-determinant is missing. It belongs to the vector, undivided.": base.sum(-1) + total / 2,
        "only the last layer's log-determinant is in it.": base.sum(-1) + each[-1],
        "the base is taken at z; take it at u.": STANDARD.log_prob(z).sum(-1) + total,
    }
    look_for_slips(tensor_of(result, (200,), "one number per vector"), base.sum(-1) + total, slips, unit="nats")
    five = points(30, 5, scale=1.0)
    halve: list[Layer] = [lambda v: (v / 2, torch.full((len(v),), -v.shape[-1] * math.log(2), dtype=v.dtype))]
    if not torch.allclose(answer(five, halve), Normal(0.0, 2.0).log_prob(five).sum(-1), atol=1e-4):
        raise Wrong("right for D = 2, wrong for D = 5: there is a 2 in it that should not be.")
    two = LAYERS[:2]
    if not torch.allclose(answer(z, two).double(), flow_log_prob(z, two), atol=1e-4):
        raise Wrong(OTHER_ORDER)
    base, total, _ = through(plane(), LAYERS)
    seen, mine = integral(base.sum(-1) + 2 * total), integral(base.sum(-1) + total)
    return f"Integral as seen: {seen:.3f}, yours: {mine:.4f}. One layer u = z/2 with D = 16 is off by 166 nats."


def kl_to_flow(z: Tensor, log_q: Tensor, layers: Sequence[Layer]) -> Tensor:
    """E_q[log q(z) − log p(z)], with the log-determinant inside log p(z)."""
    u, log_det = z, torch.zeros(len(z))
    for layer in layers:
        u, term = layer(u)
        log_det = log_det + term
    return (log_q - STANDARD.log_prob(u).sum(-1) - log_det).mean()


@exercise(
    kl_to_flow,
    hints=(
        "A KL divergence compares two densities of the same variable z.",
        "log p(z) = log p_u(T⁻¹(z)) + log|det ∂T⁻¹/∂z|; subtract it from log q(z) and average over the draws.",
    ),
)
def kl(answer: Callable[[Tensor, Tensor, Sequence[Layer]], Tensor]) -> str:
    """Judges an estimate (z, log_q, layers) → KL(q‖p), one number, for a flow prior p."""
    q = Independent(Normal(torch.tensor([1.0, -0.5], dtype=torch.float64), 0.4), 1)
    with seeded(0):
        z = q.sample(torch.Size((500,)))
    log_q = q.log_prob(z)
    base, total, _ = through(z, LAYERS)
    terms = log_q - base.sum(-1) - total
    slips = {
        "this is the term of the title: log|det ∂T⁻¹/∂z| is missing.": (log_q - base.sum(-1)).mean(),
        "the sign of the log-determinant: it is added to log p_u, and log p is subtracted.": (terms + 2 * total).mean(),
        "the sign: a KL divergence is E_q[log q − log p].": -terms.mean(),
        "this is the KL to N(0, I); the prior is the flow.": (log_q - STANDARD.log_prob(z).sum(-1)).mean(),
        "this is a sum over the draws; the expectation is a mean.": terms.sum(),
        "the log-determinant counts once per dimension; that was the slip of section 3.": (terms - total).mean(),
    }
    look_for_slips(tensor_of(answer(z, log_q, LAYERS), (), "one number"), terms.mean(), slips, unit="nats")
    two = LAYERS[:2]
    if not torch.allclose(torch.as_tensor(answer(z, log_q, two)).double(), kl_to_flow(z, log_q, two), atol=1e-4):
        raise Wrong(OTHER_ORDER)
    return f"KL(q‖p) = {terms.mean():.3f} nats. The term without the determinant is {(terms + total).mean():.3f}."
