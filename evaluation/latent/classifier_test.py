"""Classifier two-sample test between codes and draws of the prior."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.core.seeds import derive
from flowvae.evaluation.auc import auc
from flowvae.evaluation.context import EvaluationContext, MeasureResult
from flowvae.evaluation.latent.aggregated_posterior import WithPosterior, WithPrior
from flowvae.evaluation.latent.two_sample import POINTS, codes_and_prior
from flowvae.evaluation.metric import Metric
from flowvae.evaluation.registry import measure

__all__ = ["ClassifierTest", "measure_classifier", "score"]


@dataclass(frozen=True)
class ClassifierTest:
    """Accuracy and AUC of a classifier of held-out codes against held-out prior draws; chance level is ½ for both.

    In expectation both are lower bounds of the values of the optimal classifier, which are invariant under bijections
    of the latent space. The standard errors are over the held-out points and ignore the randomness of training.

    Args:
        accuracy: share of points classified correctly, averaged over the two classes.
        accuracy_se: standard error of `accuracy`.
        auc: probability that a code scores higher than a draw of the prior.
        auc_se: standard error of `auc`.
        points: held-out points in each class; the training set has the same size.
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
    """Run a classifier two-sample test between codes and prior draws in the base space.

    A small multilayer perceptron is trained on half of the points of each class and scored on the other half. A tenth
    of its training points is held out for early stopping.

    Args:
        model: model with a method `prior()`.
        guide: guide with a method `posterior(x)`.
        x: data, shape (N, D).
        points: largest number in each class, both halves together.
        hidden_features: widths of the classifier's hidden layers.
        seed: random seed of the points, the split and the classifier's initial weights.

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
        warnings.simplefilter("ignore", ConvergenceWarning)  # scores are valid without convergence, too
        label = torch.arange(2).repeat_interleave(half)
        classifier.fit(torch.cat((drawn[:half], codes[:half])).numpy(), label.numpy())
    scores = (torch.from_numpy(classifier.predict_proba(part[half:].numpy())[:, 1]) for part in (codes, drawn))
    return score(*scores)


def score(codes: Tensor, drawn: Tensor) -> ClassifierTest:
    """Score a classifier from its probabilities of "code" for codes (n,) and prior draws (n,)."""
    right = (codes > 0.5).double(), (drawn <= 0.5).double()
    accuracy = (right[0].mean() + right[1].mean()).item() / 2
    se = math.sqrt(sum(part.var().item() / len(part) for part in right)) / 2
    return ClassifierTest(accuracy, se, *auc(codes, drawn), len(codes))


@measure("classifier")
def _classifier(context: EvaluationContext) -> MeasureResult:
    """Accuracy and AUC of a classifier of codes against prior draws, on held-out points."""
    x = context.rows()
    result = measure_classifier(context.model, context.guide, x, seed=context.seed)
    return MeasureResult(result.metrics(context.split, context.facts(x)))
