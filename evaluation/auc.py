"""The area under the ROC curve with its standard error."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

__all__ = ["auc"]


def auc(positive: Tensor, negative: Tensor) -> tuple[float, float]:
    """P(positive > negative) + ½ P(equal) from scores (m,) and (n,), and its standard error.

    The standard error makes no assumption about the two distributions.

    References:
        DeLong, DeLong & Clarke-Pearson (1988), "Comparing the Areas under Two or More Correlated ROC Curves".
    """
    from statsmodels.stats.nonparametric import rank_compare_2indep

    with np.errstate(divide="ignore", invalid="ignore"):  # in its test statistic, if the standard error is 0
        compared = rank_compare_2indep(positive.numpy(force=True), negative.numpy(force=True))
    return float(compared.prob1), math.sqrt(compared.var_prob)
