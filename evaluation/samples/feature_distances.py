"""Distances between two sets of feature vectors: FID, KID and PRDC, each with a standard error."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError
from flowvae.core.progress import bar

__all__ = ["MEASURES", "Estimate", "compare_features", "frechet_distance", "kernel_distance", "prdc"]

CHUNK = 1024  # rows in memory at a time of a matrix of all pairs
MEASURES = ("fid", "kid", "precision", "recall", "density", "coverage")


class Estimate(NamedTuple):
    """An estimate with its standard error."""

    value: float
    se: float


def compare_features(
    real: Tensor, generated: Tensor, neighbours: int = 5, groups: int = 20, progress: bool = False
) -> dict[str, Estimate]:
    """Compute all six measures of two sets of n feature vectors in random order, each of shape (n, d).

    The standard errors are from a jackknife that leaves each group in turn out of both sets, so they cover the sampling
    of the data and of the generator. The jackknife counts second-order terms twice (Efron & Stein 1981) and is thus
    conservative: correct for FID and KID of different distributions, up to 50 % too large for equal ones, and up to
    100 % too large for shares of neighbourhoods. Use intervals of Student's t with groups − 1 degrees of freedom. In
    one or two dimensions KID's cubic kernel is so skewed that these intervals cover too little.

    Args:
        real: features of data.
        generated: features of the same number of generated data points.
        neighbours: k of PRDC.
        groups: number of jackknife groups.
        progress: whether to show a progress bar.

    Raises:
        FlowvaeError: for sets of different sizes, or too small for the neighbours or the groups.
    """
    count = len(real)
    if real.shape != generated.shape:
        raise FlowvaeError(f"features of shapes {tuple(real.shape)} and {tuple(generated.shape)}: must be the same.")
    if groups < 2 or neighbours < 1 or count - -(-count // max(groups, 1)) <= max(neighbours, 1):
        raise FlowvaeError(
            f"{count} data, neighbours = {neighbours}, groups = {groups}: more data than neighbours must remain when a "
            "group is left out; use more data, fewer neighbours or more groups."
        )
    real, generated = real.double(), generated.double()

    def all_six(a: Tensor, b: Tensor) -> Tensor:
        return torch.tensor([frechet_distance(a, b), kernel_distance(a, b), *prdc(a, b, neighbours)])

    with bar("feature distances", "comparison", 1 + groups, progress=progress) as shown:

        def counted(a: Tensor, b: Tensor) -> Tensor:
            found = all_six(a, b)
            shown.update()
            return found

        values = counted(real, generated)
        errors = _jackknife(counted, real, generated, groups)
    return {
        name: Estimate(value, se) for name, value, se in zip(MEASURES, values.tolist(), errors.tolist(), strict=True)
    }


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """FID: ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), 0 for equal means and covariances.

    Computed by torchmetrics. The bias is positive and about a constant over n, so compare only values with the same n.

    Args:
        a: features, shape (N, d).
        b: features, shape (M, d).

    References:
        Heusel et al. (2017), "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium".
    """
    from torchmetrics.image.fid import FrechetInceptionDistance  # takes seconds to import

    given = nn.Identity()
    given.num_features = a.shape[1]  # type: ignore[assignment]  # read by torchmetrics
    metric = FrechetInceptionDistance(feature=given).to(a.device)
    centre = a.mean(0)  # sums of squares lose digits far from the origin
    metric.update((a - centre).double(), real=True)
    metric.update((b - centre).double(), real=False)
    return float(metric.compute())


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """KID: the unbiased estimate of MMD² with the kernel (aᵀb/d + 1)³; 0 on average for equal distributions.

    It uses all pairs. torchmetrics averages over random subsets instead, which overlap, so the spread that it reports
    is not a standard error; with a single subset of all data it gives the same value.

    Args:
        a: features, shape (N, d).
        b: features, shape (M, d).

    References:
        Bińkowski et al. (2018), "Demystifying MMD GANs".
    """
    within_a, within_b = (_kernel_sum(x, x) - float(_kernel(x, x).sum()) for x in (a, b))
    count_a, count_b = len(a), len(b)
    return (
        within_a / (count_a * (count_a - 1))
        + within_b / (count_b * (count_b - 1))
        - 2 * _kernel_sum(a, b) / (count_a * count_b)
    )


class PRDC(NamedTuple):
    """Precision, recall, density and coverage; all but density are at most 1.

    Attributes:
        precision: share of generated points inside the ball of some data point.
        recall: share of data points inside the ball of some generated point.
        density: mean number of data balls that contain a generated point, over k; 1 on average for equal distributions.
        coverage: share of data points whose ball contains generated points.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Tensor, generated: Tensor, neighbours: int = 5) -> PRDC:
    """Compute precision, recall, density and coverage; a point's ball reaches to its k-th neighbour in its own set.

    If the distributions are equal, the expectation of density is 1 and that of coverage 1 − Π_{i=1..k} (N − i) /
    (M + N − i), for any distribution. Precision and recall have no such reference value. An outlier among the data has
    a large ball and raises precision; density and coverage are robust to this.

    Args:
        real: features of data, shape (N, d).
        generated: features of generated data, shape (M, d).
        neighbours: k.

    References:
        Kynkäänniemi et al. (2019), "Improved Precision and Recall Metric for Assessing Generative Models";
        Naeem et al. (2020), "Reliable Fidelity and Diversity Metrics for Generative Models".
    """
    own, others = _radius(real, neighbours), _radius(generated, neighbours)
    inside = torch.zeros(len(generated), device=real.device)
    recalled, covered = 0, 0
    for few, radius in zip(real.split(CHUNK), own.split(CHUNK), strict=True):
        distance = torch.cdist(few, generated)
        balls = distance < radius.unsqueeze(1)
        inside += balls.sum(0)
        covered += int(balls.any(1).sum())
        recalled += int((distance < others).any(1).sum())
    return PRDC(
        float((inside > 0).double().mean()),
        recalled / len(real),
        float(inside.double().mean()) / neighbours,
        covered / len(real),
    )


def _radius(x: Tensor, neighbours: int) -> Tensor:
    """Distance of each row to its k-th nearest other row, (N,)."""
    parts = []
    for number, few in enumerate(x.split(CHUNK)):
        distance = torch.cdist(few, x)
        places = torch.arange(len(few), device=x.device)
        distance[places, number * CHUNK + places] = torch.inf  # a row is not its own neighbour
        parts.append(distance.kthvalue(neighbours, 1).values)
    return torch.cat(parts)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return ((a * b).sum(-1) / a.shape[-1] + 1) ** 3


def _kernel_sum(a: Tensor, b: Tensor) -> float:
    return sum(float(((few @ b.T / b.shape[1] + 1) ** 3).sum()) for few in a.split(CHUNK))


def _jackknife(statistic: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, groups: int) -> Tensor:
    """Jackknife standard errors of a statistic of n pairs of rows, leaving out one group of pairs at a time."""
    group = torch.arange(len(a), device=a.device) % groups
    without = torch.stack([statistic(a[group != g], b[group != g]) for g in range(groups)])
    return ((groups - 1) * without.var(0, correction=0)).sqrt()
