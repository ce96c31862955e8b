"""The area under the ROC curve against scikit-learn, and its error against DeLong's formula."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from flowvae.evaluation.auc import auc


def delong(positive: Tensor, negative: Tensor) -> float:
    """By the definition: variances of the placements of each sample in the other one."""
    pairs = (positive[:, None] > negative).double() + 0.5 * (positive[:, None] == negative).double()
    return math.sqrt(pairs.mean(1).var().item() / len(positive) + pairs.mean(0).var().item() / len(negative))


@pytest.mark.parametrize("digits", [1, 6], ids=["ties", "no ties"])
def test_area_and_error(digits: int) -> None:
    positive, negative = (torch.randn(60) + 0.4).round(decimals=digits), torch.randn(40).round(decimals=digits)
    labels = [1] * 60 + [0] * 40
    area, error = auc(positive, negative)
    assert area == pytest.approx(roc_auc_score(labels, torch.cat((positive, negative)).numpy()), abs=1e-12)
    assert error == pytest.approx(delong(positive, negative), rel=1e-9)


def test_samples_apart_and_equal() -> None:
    assert auc(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])) == (1.0, 0.0)
    assert auc(torch.tensor([2.0, 2.0]), torch.tensor([2.0, 2.0])) == (0.5, 0.0)
    assert auc(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0]))[0] == pytest.approx(3.5 / 4)
