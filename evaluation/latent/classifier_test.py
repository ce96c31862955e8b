"""A classifier that tries to tell codes from draws of the prior."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.seeds import derive
from flowvae.evaluation.latent.aggregated_posterior import WithPosterior, WithPrior
from flowvae.evaluation.latent.two_sample import POINTS, codes_and_prior
from flowvae.evaluation.metric import Metric

__all__ = ["ClassifierTest", "auc", "measure_classifier", "score"]


@dataclass(frozen=True)
class ClassifierTest:
    """How well a classifier tells held-out codes from held-out draws of the prior; ½ each where it cannot.

    A lower bound of what the best classifier could: the errors are those of the held-out points, not of the
    training. The *best* accuracy and area do not change under a bijection of the latent.

    Args:
        accuracy: share of correct answers, the mean of both classes.
        accuracy_se: its standard error over the held-out points.
        auc: probability that a code scores higher than a draw from the prior.
        auc_se: its standard error over the held-out points.
        points: held-out points in each class; as many were trained on.
    """

    accuracy: float
    accuracy_se: float
    auc: float
    auc_se: float
    points: int

    def metrics(self, split: str, protocol: dict[str, Any]) -> list[Metric]:
        """`c2st_accuracy` and `c2st_auc`."""
        protocol = {**protocol, "points": self.points}
        return [
            Metric("c2st_accuracy", self.accuracy, self.accuracy_se, "share of held-out points", split, protocol),
            Metric("c2st_auc", self.auc, self.auc_se, "area under the ROC curve", split, protocol),
        ]


def measure_classifier(
    model: WithPrior,
    guide: WithPosterior,
    x: Tensor,
    points: int = POINTS,
    hidden_features: tuple[int, ...] = (32,),
    seed: int = 0,
) -> ClassifierTest:
    """Classifier two-sample test between codes and prior in the base space.

    A small multilayer perceptron is trained on half of the points of each class, stops on a tenth of these, and
    is scored on the other half.

    Args:
        model: with `prior()`.
        guide: with `posterior(x)`.
        x: data, shape (N, D).
        points: in each class at most, both halves together.
        hidden_features: widths of the classifier's hidden layers.
        seed: of the points, the split and the classifier's first weights.

    Raises:
        FlowvaeError: for fewer than 40 points.

    References:
        Lopez-Paz & Oquab (2017), "Revisiting Classifier Two-Sample Tests".
    """
    from sklearn.exceptions import ConvergenceWarning  # slow to import
    from sklearn.neural_network import MLPClassifier

    if min(points, len(x)) < 40:
        raise FlowvaeError(f"points = {points}, data = {len(x)}: the classifier needs 40 or more.")
    codes, drawn = (part.cpu().double() for part in codes_and_prior(model, guide, x, points, seed))
    half = len(codes) // 2
    classifier = MLPClassifier(
        hidden_features, early_stopping=True, max_iter=300, random_state=derive(seed, "classifier") % 2**32
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an unfinished classifier is one that is scored, too
        label = torch.arange(2).repeat_interleave(half)
        classifier.fit(torch.cat((drawn[:half], codes[:half])).numpy(), label.numpy())
    scores = (torch.from_numpy(classifier.predict_proba(part[half:].numpy())[:, 1]) for part in (codes, drawn))
    return score(*scores)


def score(codes: Tensor, drawn: Tensor) -> ClassifierTest:
    """Accuracy and area of a classifier from its probabilities of "code" for codes (n,) and prior draws (n,)."""
    right = (codes > 0.5).double(), (drawn <= 0.5).double()
    accuracy = (right[0].mean() + right[1].mean()).item() / 2
    se = math.sqrt(sum(part.var().item() / len(part) for part in right)) / 2
    return ClassifierTest(accuracy, se, *auc(codes, drawn), len(codes))


def auc(positive: Tensor, negative: Tensor) -> tuple[float, float]:
    """P(positive > negative) + ½ P(equal) from scores (m,) and (n,), and its standard error.

    References:
        DeLong, DeLong & Clarke-Pearson (1988), "Comparing the Areas under Two or More Correlated ROC Curves".
    """

    def shares(of: Tensor, among: Tensor) -> Tensor:
        """For every value of `of`, the share of `among` below it, and half of what is equal."""
        among = among.sort().values
        return (torch.searchsorted(among, of) + torch.searchsorted(among, of, right=True)) / (2 * len(among))

    above, below = shares(positive, negative).double(), shares(negative, positive).double()
    return above.mean().item(), math.sqrt(above.var().item() / len(above) + below.var().item() / len(below))
