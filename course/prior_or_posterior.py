"""Exercises of notebook 16: how to compare priors and guides."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowvae.comparisons import QUESTIONS
from flowvae.comparisons.engine.parameter_matching import count_parameters, widen_decoder
from flowvae.course.exercise import Wrong, answered, exercise
from flowvae.data import Digits
from flowvae.evaluation.calibration.holm import holm
from flowvae.experiments.experiment import Experiment
from flowvae.flows import NSF
from flowvae.models import FlowDecoder, StandardNormal
from flowvae.networks import MLP

Array = NDArray[Any]

A = np.array([92.1, 93.0, 91.4, 94.2, 92.8, 93.5])
B = np.array([92.9, 93.4, 92.6, 94.5, 93.9, 94.0])


def paired_difference(a: Array, b: Array) -> tuple[float, float]:
    """The differences within seeds are the data; their mean has the standard error sd / √n."""
    differences = a - b
    return differences.mean(), differences.std(ddof=1) / math.sqrt(len(differences))


@exercise(
    paired_difference,
    hints=(
        "Take the differences first. What is left is the mean of n numbers.",
        "The standard error of a mean of n numbers is their standard deviation (ddof=1) divided by √n.",
    ),
)
def paired(answer: Callable[[Array, Array], Any]) -> str:
    """Judges a function (a, b) → (mean of a − b, its standard error)."""
    found = answered(answer(A, B))
    try:
        mean, se = (float(answered(value)) for value in found)
    except (TypeError, ValueError):
        raise Wrong("return two numbers, (mean, se).") from None
    d, n = A - B, len(A)
    right, unpaired = d.std(ddof=1) / math.sqrt(n), math.sqrt((A.var(ddof=1) + B.var(ddof=1)) / n)
    if _close(mean, -d.mean()):
        raise Wrong("the sign is inverted: the exercise asks for a − b, and the sign says which arm is better.")
    if _close(mean, right):
        raise Wrong("the first number is the standard error; return the mean first, (mean, se).")
    if not _close(mean, d.mean()):
        raise Wrong(f"{mean:.4g} is not the mean of a − b over the seeds.")
    slips = {
        "this is the unpaired standard error; take the differences within seeds first.": (
            unpaired,
            math.sqrt((A.var() + B.var()) / n),
            (A.std(ddof=1) + B.std(ddof=1)) / math.sqrt(n),
        ),
        "NumPy's std divides by n; around their own mean, divide by n − 1 (ddof=1).": (d.std() / math.sqrt(n),),
        "this is the standard deviation of one difference; that of the mean is smaller by √n.": (
            d.std(ddof=1),
            d.std(),
        ),
        "this is a variance; take the root.": (right**2,),
        "divide the standard deviation by √n, not by n.": (d.std(ddof=1) / n,),
        "this is half the width of an interval; the standard error has no quantile in it.": (
            1.96 * right,
            2 * right,
        ),
    }
    for reason, values in slips.items():
        if any(_close(se, value) for value in values):
            raise Wrong(reason)
    if not _close(se, right):
        raise Wrong(f"{se:.4g} is not the standard deviation of the differences divided by √n.")
    return f"Unpaired it would be {unpaired / right:.1f} times as large."


def _close(found: float, value: float) -> bool:
    return math.isclose(found, value, rel_tol=1e-5)  # the answer may be in float32


def colleague() -> tuple[Experiment, Experiment]:
    """Returns the two arms of the exercise: baseline and flow prior."""
    return Experiment(), replace(Experiment(), prior=NSF(transforms=4))


def wider_decoder() -> Experiment:
    """The target is the count of the flow arm; prior and encoder stay those of the baseline."""
    base, flow = Experiment(), replace(Experiment(), prior=NSF(transforms=4))
    digits = base.data.load(0)
    return widen_decoder(base, digits, count_parameters(flow, digits))


@exercise(
    wider_decoder,
    hints=(
        "The target is the number of parameters of the flow arm; count_parameters(experiment, data) counts.",
        "widen_decoder(baseline, data, target) returns the experiment.",
    ),
    value=True,
)
def control(answer: Any) -> str:
    """Judges the control for capacity of a flow prior."""
    if not isinstance(answer, Experiment):
        raise Wrong(f"{type(answer).__name__} is not an Experiment.")
    base, flow = colleague()
    if answer.prior != StandardNormal():
        raise Wrong("a control has the parameters and not the flow: its prior is N(0, I).")
    for f in fields(Experiment):
        if f.name != "decoder" and getattr(answer, f.name) != getattr(base, f.name):
            raise Wrong(f"{f.name} differs from the baseline's. Only the decoder may be wider.")
    if isinstance(answer.decoder, FlowDecoder):
        raise Wrong("there is a flow inside the decoder. A control has a wider MLP and no flow.")
    if not isinstance(answer.decoder, MLP):
        raise Wrong(f"the decoder is a {type(answer.decoder).__name__}. A control widens the baseline's MLP.")
    digits = Digits().load(0)
    target, found = count_parameters(flow, digits), count_parameters(answer, digits)
    if abs(found / target - 1) > 0.005:
        raise Wrong(f"it has {found} parameters and the flow arm {target}: {100 * (found / target - 1):+.1f} %.")
    return f"{found} parameters for {target}; the decoder is {answer.decoder.hidden_features}."


CLAIMS = {
    "capacity: a flow prior wins only because it has more parameters": (
        ("prior-flow", "wider"),
        "which arm has the parameters but not the flow?",
    ),
    "capacity: a flow prior is only a deeper decoder": (
        ("prior-flow", "in-decoder"),
        "which arm is the same generative model with another guide?",
    ),
    "holes: fine-tuning with a flow wins only because it trains longer": (
        ("fine-tuned", "trained-on"),
        "which arm trains longer but learns no prior?",
    ),
    "prior-or-posterior: a flow in the guide helps although it is the same for every x": (
        ("guide-static", "normal"),
        "the claim is about the flow itself, not about what x adds to it.",
    ),
}


def pairs_of_arms() -> dict[str, tuple[str, str]]:
    """One arm has the change; the other has its side effects (parameters, time), but not the change itself."""
    return {claim: pair for claim, (pair, _) in CLAIMS.items()}


def arms_of_claims() -> dict[str, list[str]]:
    """Returns the arms of the three questions that the claims are about."""
    names = dict.fromkeys(claim.partition(":")[0] for claim in CLAIMS)
    return {name: list(dict.fromkeys(_arms_of(name))) for name in names}


def _arms_of(name: str) -> list[str]:
    return [arm.partition("@")[0] for arm in QUESTIONS[name].experiments("digits", "hour")]


@exercise(
    pairs_of_arms,
    hints=(
        "A claim names a cause. One of the two arms has the cause and the change, the other only the cause.",
        "Read QUESTIONS[name].text: it explains the purpose of each arm.",
    ),
    value=True,
)
def deciding(answer: Mapping[str, Any]) -> str:
    """Judges which pair of arms decides a claim, for each of four claims."""
    if not isinstance(answer, Mapping) or set(answer) != set(CLAIMS):
        raise Wrong("the keys should be the four claims, as they are given.")
    if None in answer.values():
        answered(None)
    for claim, (right, hint) in CLAIMS.items():
        given = answer[claim]
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise Wrong(f"{given!r} is not a pair of arms, (arm, against).")
        answered(None if None in given else given)
        if set(given) == set(right):
            continue
        question, names = claim.partition(":")[0], arms_of_claims()[claim.partition(":")[0]]
        if unknown := [name for name in given if name not in names]:
            raise Wrong(f"{question} has no arm {unknown[0]!r}. Its arms are {', '.join(names)}.")
        if right[0] in given:
            raise Wrong(f"'{claim}': {right[0]} is one of the two. For the other: {hint}")
        raise Wrong(f"'{claim}': {' against '.join(map(str, given))} does not have the arm that the claim is about.")
    return "Each pair differs in the subject of the claim and shares its side effects."


P = np.array([0.020, 0.021, 0.008, 0.200])


def corrected_by_hand() -> list[float]:
    """Sorted: 0.008 · 4 = 0.032; 0.020 · 3 = 0.060; 0.021 · 2 = 0.042, but at least the one before; 0.200 · 1."""
    return [0.060, 0.060, 0.032, 0.200]


@exercise(
    corrected_by_hand,
    hints=(
        "Sort the four values. The smallest is multiplied by 4.",
        "The next ones are multiplied by 3, 2 and 1, and no value may be smaller than the one before it.",
    ),
    value=True,
)
def corrected(answer: Any) -> str:
    """Judges four p-values corrected by Holm's rule."""
    try:
        given = np.atleast_1d(np.asarray(answer, dtype=float))
    except (TypeError, ValueError):
        raise Wrong(f"{answer!r} is not a list of four numbers.") from None
    if given.shape != P.shape:
        raise Wrong(f"{given.size} value(s); give one for each of the four.")
    factors, in_order = np.array([3, 2, 4, 1]), np.array([4, 3, 2, 1])  # by rank, and by place in the list
    slips = {
        "this is Bonferroni's correction: only the smallest is multiplied by 4.": np.minimum(4 * P, 1),
        "0.021 comes after 0.020, so it may not end up below it: take the larger.": factors * P,
        "the factors are in the opposite order: the *smallest* p has the largest factor.": (5 - factors) * P,
        "the factors go by the size of the p-values, not by their place in the list: sort first.": in_order * P,
        "this is Benjamini and Hochberg's correction, for the share of false discoveries; Holm's is for any.": (
            np.array([0.028, 0.028, 0.028, 0.2])
        ),
        "the values are right, but sorted; give them in the order of the question.": np.sort(holm(P)),
    }
    for reason, value in slips.items():
        if np.allclose(given, value):
            raise Wrong(reason)
    if not np.allclose(given, holm(P)):
        raise Wrong("sort them; multiply by 4, 3, 2, 1; no value may be smaller than the one before it.")
    before, after = (P < 0.05).sum(), (holm(P) < 0.05).sum()
    return f"At the level 0.05, {after} of 4 is significant; without correction, {before}."
