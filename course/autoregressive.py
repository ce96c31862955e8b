"""Exercises of notebook 12: autoregressive models and flows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Beta

from flowvae.core.seeds import seeded
from flowvae.course.exercise import Wrong, answered, exercise
from flowvae.course.judging import look_for_slips, tensor_of
from flowvae.flows import IAF, MAF, RealNVP
from flowvae.models import (
    AutoregressiveModel,
    BinomialLikelihood,
    DiscretizedLogistic,
    default_autoregressive_likelihood,
)
from flowvae.networks import MADE

LEVELS = 17  # grey levels 0, …, 16


def made_of_counts(features: int) -> AutoregressiveModel:
    """A small MADE whose conditionals are mixtures of discretized logistics over 0, …, 16; untrained."""
    likelihood = BinomialLikelihood(total=LEVELS - 1)
    head = default_autoregressive_likelihood(likelihood).build(likelihood, torch.zeros(1, features))
    shape = Size((features,))
    return AutoregressiveModel(MADE((64,)).build(shape, head.parameters_each), head, shape)


def masks_of_an_order(place: Tensor, hidden: list[Tensor]) -> list[Tensor]:
    """The degree of an input is its place in the order; nothing in MADE needs the natural order.

    A hidden unit of degree m sees units of degree m or less, an output only units of a degree below its own place.
    Along a path, degrees never decrease, and at the last step they increase.
    """
    degrees = [place, *hidden]
    inner = [(after[:, None] >= before).float() for before, after in pairwise(degrees)]
    return [*inner, (place[:, None] > hidden[-1]).float()]


@exercise(
    masks_of_an_order,
    hints=(
        "Section 2 has the rule for one hidden layer and the natural order. What replaces the degree j of input x_j?",
        "Between two hidden layers the rule is the one from input to hidden: degree(to) ≥ degree(from).",
        "Compare with broadcasting: after[:, None] >= before has the shape (after, before).",
    ),
)
def masks(answer: Callable[[Tensor, list[Tensor]], list[Tensor]]) -> str:
    """Judges the masks of a MADE with two hidden layers for any order of the pixels."""
    place = torch.tensor([3, 1, 5, 2, 4])
    hidden = [torch.tensor([1, 2, 3, 4, 1, 2, 3]), torch.tensor([4, 3, 2, 1, 2, 4])]
    found = answered(answer(place, hidden))
    shapes = [(7, 5), (6, 7), (5, 6)]
    if len(found) != 3:
        raise Wrong(f"{len(found)} masks: two hidden layers have three layers of weights.")
    given = [tuple(mask.shape) for mask in found]
    if given == [shape[::-1] for shape in shapes]:
        raise Wrong("the masks are transposed: outputs come first in the shape, as in torch's weights.")
    if given != shapes:
        raise Wrong(f"the shapes are {given} and should be {shapes}.")
    found = [mask.float() for mask in found]
    natural = torch.arange(1, 6)
    if all(torch.equal(a, b) for a, b in zip(found, masks_of_an_order(natural, hidden), strict=True)):
        raise Wrong("these are the masks of the natural order: the degree of pixel j is place[j], not j.")
    _look_at_paths(found, place)
    for number, (mask, wanted) in enumerate(zip(found, masks_of_an_order(place, hidden), strict=True), start=1):
        if (mask < wanted).any():
            raise Wrong(
                f"autoregressive, but mask {number} drops weights that may be kept: a hidden unit may see all units "
                "whose degree is not above its own, an output all units below its own."
            )
        if (mask > wanted).any():
            raise Wrong(f"mask {number} keeps a weight that leads to a unit of a lower degree.")
    return "No path leads from a pixel to itself or to an earlier one."


def _look_at_paths(found: list[Tensor], place: Tensor) -> None:
    paths = found[2] @ found[1] @ found[0]  # how many paths lead from input j to output i
    if (paths.diagonal() > 0).any():
        raise Wrong("a pixel sees itself. The last inequality is strict: an output has only units of lower degree.")
    early = (paths > 0) & ~(place[:, None] > place)
    if early.any():
        i, j = early.nonzero()[0].tolist()
        raise Wrong(
            f"pixel {j} (drawn as number {place[j]}) reaches the output of pixel {i} (number {place[i]}): too early."
        )


def numbers_of_passes() -> dict[str, int]:
    """A batch takes one pass through a network, and the passes of the transforms in a stack add up.

    A loop over the 64 pixels is needed where a network reads numbers that the transform itself has to produce: the data
    in MADE and MAF when drawing, the base in IAF when scoring. (The library takes one more pass per transform for the
    latter, for the log-determinant: 325 is right too.) In distillation the student draws and the teacher scores.
    """
    return {
        "MADE: score": 1,
        "MADE: draw": 64,
        "MAF: score": 5,
        "MAF: draw": 5 * 64,
        "IAF: score": 5 * 64,
        "IAF: draw": 5,
        "RealNVP: score": 8,
        "RealNVP: draw": 8,
        "distillation step": 5 + 5,
    }


def count_passes(modules: Iterable[nn.Module], call: Callable[[], Any]) -> int:
    """Counts the calls of networks."""
    calls: list[None] = []
    hooks = [module.register_forward_hook(lambda *_: calls.append(None)) for module in modules]
    try:
        with torch.no_grad():
            call()
    finally:
        for hook in hooks:
            hook.remove()
    return len(calls)


def measured_passes() -> dict[str, int]:
    """Counts the network passes for 25 images of 64 pixels."""
    x = torch.full((25, 64), 8.0)
    model = made_of_counts(64)
    counted = {
        "MADE: score": count_passes([model.network], lambda: model.log_prob(x)),
        "MADE: draw": count_passes([model.network], lambda: model.sample(25, progress=False)),
    }
    for family in (MAF(5), IAF(5), RealNVP(8)):
        lazy = family.build(64)
        inside = [module.get_submodule("hyper") for module in lazy.modules() if hasattr(module, "hyper")]
        name = type(family).__name__
        counted[f"{name}: score"] = count_passes(inside, lambda lazy=lazy: lazy().log_prob(x))  # type: ignore[misc]
        counted[f"{name}: draw"] = count_passes(inside, lambda lazy=lazy: lazy().sample((25,)))  # type: ignore[misc]
    counted["distillation step"] = counted["IAF: draw"] + counted["MAF: score"]
    return counted


@exercise(
    numbers_of_passes,
    hints=(
        "Does the network read numbers that are all known from the start? Then one pass is enough.",
        "A MAF's network reads data, an IAF's network reads base numbers. A coupling reads the half that stays.",
        "A stack of five transforms takes five times as many passes as one.",
    ),
    value=True,
)
def passes(answer: Mapping[str, Any]) -> str:
    """Judges the numbers of network passes that scoring and drawing 25 images of 64 pixels take."""
    right = numbers_of_passes()
    for name, wanted in right.items():
        value = answered(answer.get(name))
        if value == wanted or (name == "IAF: score" and value == 5 * 65):
            continue
        if value == 25 * wanted:
            raise Wrong(f"{name}: {value} counts every image. A batch goes through a network in one pass.")
        if name[:3] in ("MAF", "IAF"):
            other = {"score": "draw", "draw": "score"}[name.split(": ")[1]]
            if value == right[f"{name[:3]}: {other}"]:
                raise Wrong(f"{name}: {value} is the other direction. Whose earlier numbers does the network read?")
            if 5 * value == wanted:
                raise Wrong(f"{name}: {value} is right for one transform; here are five.")
        if name.startswith("RealNVP") and value in (2 * 8, 8 * 64):
            raise Wrong(f"{name}: the half that the network reads is known in both directions.")
        if name == "distillation step" and value == 5:
            raise Wrong(f"{name}: the student draws, and the teacher scores: two flows, five transforms each.")
        if name == "distillation step" and value > wanted:
            raise Wrong(f"{name}: the student gets the density of its own draw from the same passes as the draw.")
        raise Wrong(f"{name}: {value} is not what a running network takes. Are the numbers it reads known at once?")
    return "They agree with the counts in running networks."


def discretized_logistic(x: Tensor, mu: Tensor, s: Tensor) -> Tensor:
    """The mass of a logistic in the cell of x; the first cell reaches to −∞ and the last one to +∞."""
    above = torch.where(x == LEVELS - 1, torch.ones_like(mu), torch.sigmoid((x + 0.5 - mu) / s))
    below = torch.where(x == 0, torch.zeros_like(mu), torch.sigmoid((x - 0.5 - mu) / s))
    return above - below


@exercise(
    discretized_logistic,
    hints=(
        "The logistic distribution has the distribution function σ((v − μ)/s).",
        "The mass between x − ½ and x + ½ is a difference of two sigmoids.",
        "For x = 0 replace the lower sigmoid by 0, for x = 16 the upper one by 1; torch.where does it.",
    ),
)
def logistic(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """Judges (x, μ, s) → P(x) of a discretized logistic over the counts 0, …, 16."""
    x = torch.arange(LEVELS, dtype=torch.float64).expand(3, LEVELS)
    mu = torch.tensor([[1.0], [7.3], [15.5]], dtype=torch.float64).expand(3, LEVELS)
    s = torch.tensor([[1.5], [0.4], [2.0]], dtype=torch.float64).expand(3, LEVELS)
    found = tensor_of(answer(x, mu, s), (3, LEVELS), "one probability for each count")
    half = (LEVELS - 1) / 2
    right = DiscretizedLogistic(mu / half - 1, (s / half).log(), LEVELS - 1).log_prob(x).exp()
    inner = torch.sigmoid((x + 0.5 - mu) / s) - torch.sigmoid((x - 0.5 - mu) / s)
    density = torch.sigmoid((x - mu) / s) * torch.sigmoid((mu - x) / s) / s
    normal = torch.distributions.Normal(mu, s)
    slips = {
        "the first and last cells are cut off: probabilities do not sum to 1. They reach to −∞ and to +∞.": inner,
        "this is the density at the middle of the cell; the exercise asks for the mass of the cell.": density,
        "the exercise asks for the probability, not for its logarithm.": right.log(),
        "the cells go from x to x + 1 here; they should be centred on x.": torch.sigmoid((x + 1 - mu) / s)
        - torch.sigmoid((x - mu) / s),
        "s is a width: divide by it.": DiscretizedLogistic(mu / half - 1, -(s * half).log(), LEVELS - 1)
        .log_prob(x)
        .exp(),
        "the cells are cut off and rescaled; instead the first one reaches to −∞ and the last one to +∞.": inner
        / inner.sum(-1, keepdim=True),
        "this is a Gaussian; the logistic distribution function is a sigmoid.": normal.cdf(x + 0.5)
        - normal.cdf(x - 0.5),
    }
    look_for_slips(found, right, slips)
    return f"The sums over all counts are {', '.join(f'{total:.4f}' for total in found.sum(-1).tolist())}."


def bits_of_counts(log_density: Callable[[Tensor], Tensor], x: Tensor, noise: Tensor) -> Tensor:
    """With v = 17 s, log p_v(v) = log p_s(v / 17) − D log 17; the bound is its mean over the noise."""
    features = x.shape[-1]
    per_unit_of_v = log_density((x + noise) / LEVELS) - features * math.log(LEVELS)
    return -per_unit_of_v.mean(0) / (features * math.log(2))


@exercise(
    bits_of_counts,
    hints=(
        "What is the log-density of v = 17 s, per unit of v?",
        "log p_v(v) = log p_s(v/17) − D log 17. Average over the noise, change the sign, divide by D log 2.",
    ),
)
def code_length(answer: Callable[..., Tensor]) -> str:
    """Judges (log_density of s = v/17, x, noise) → bits/dim by the plain uniform bound, (N,)."""
    one = Beta(torch.tensor(1.0, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64), validate_args=False)

    def density(s: Tensor) -> Tensor:
        return one.log_prob(s).sum(-1)

    with seeded(0):
        x = torch.randint(LEVELS, (6, 10)).double()
        noise = torch.rand(400, 6, 10, dtype=torch.float64)
    found = tensor_of(answer(density, x, noise), (6,), "one number an image")
    if not torch.isfinite(found).all():
        raise Wrong("it is not finite: x + δ reaches up to 17, so only division by 17 keeps it in the unit interval.")
    scores, scale, each = density((x + noise) / LEVELS), math.log(LEVELS), 1 / (10 * math.log(2))
    right = bits_of_counts(density, x, noise)
    slips = {
        "− D log 17 is missing: s = v/17 is a change of variables. These are bits of s, and can be negative.": (
            -scores.mean(0) * each
        ),
        "log 17 has the wrong sign: over v the same mass spreads 17 times as wide.": -(scores.mean(0) + 10 * scale)
        * each,
        "every one of the D pixels is scaled: D log 17, not log 17.": -(scores.mean(0) - scale) * each,
        "the scale is 17, not 16: 17 grey levels, each with a cell of width 1.": -(scores.mean(0) - 10 * math.log(16))
        * each,
        "these are nats per dimension: divide by log 2.": right * math.log(2),
        "these are bits per image: divide by D.": right * 10,
        "the sign: a code length is −log₂ P(x).": -right,
        "this is the log of a mean over the draws, a tighter bound that depends on K. The plain one is the mean of "
        "logs.": -(scores.logsumexp(0) - math.log(400) - 10 * scale) * each,
        "no noise: a density at the left edge of each cell is not a bound on its probability.": -(
            density(x / LEVELS) - 10 * scale
        )
        * each,
    }
    look_for_slips(found, right, slips, unit="bits/dim")
    cell = (1 - x / LEVELS) ** 3 - (1 - (x + 1) / LEVELS) ** 3  # the distribution function is 1 − (1 − s)³
    exact = -cell.log().sum(-1) * each
    return f"Bound {right.mean():.4f}, exact {exact.mean():.4f} bits/dim: too long, never too short."
