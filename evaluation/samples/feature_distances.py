"""How far two sets of feature vectors are apart: FID, KID and PRDC, each with a standard error."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowvae.core.errors import FlowvaeError

__all__ = ["MEASURES", "Estimate", "compare_features", "frechet_distance", "kernel_distance", "prdc"]

CHUNK = 1024  # rows of a matrix of all pairs that are in memory at a time
MEASURES = ("fid", "kid", "precision", "recall", "density", "coverage")


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    se: float


def compare_features(real: Tensor, generated: Tensor, neighbours: int = 5, groups: int = 20) -> dict[str, Estimate]:
    """All six measures of two sets of n feature vectors in random order, each of shape (n, d).

    Their standard errors are from the jackknife: each of the groups in turn is left out of both sets. They cover the
    sampling of the data and of the generator. A jackknife counts what depends on two data at once twice (Efron & Stein
    1981), so it errs on the safe side: the errors are right for FID and KID of distributions that differ, too large by
    up to a half for those of equal ones, and by up to double for shares of neighbourhoods. Intervals are of Student's t
    with groups − 1 degrees. In one or two dimensions KID's cubic kernel is so skewed that they fall short.

    Args:
        real: features of data.
        generated: features of as many generated data.
        neighbours: k of PRDC.
        groups: how many parts of the sets are left out in turn.

    Raises:
        FlowvaeError: for sets of different sizes, or too small for the neighbours or the groups.
    """
    count = len(real)
    if real.shape != generated.shape:
        raise FlowvaeError(f"features of shapes {tuple(real.shape)} and {tuple(generated.shape)}: must be the same.")
    if groups < 2 or neighbours < 1 or count - -(-count // max(groups, 1)) <= max(neighbours, 1):
        raise FlowvaeError(
            f"{count} data, neighbours = {neighbours}, groups = {groups}: the data that stay when a group is left out "
            "must be more than the neighbours; take more data or fewer of the others."
        )
    real, generated = real.double(), generated.double()

    def all_six(a: Tensor, b: Tensor) -> Tensor:
        return torch.tensor([frechet_distance(a, b), kernel_distance(a, b), *prdc(a, b, neighbours)])

    values = all_six(real, generated)
    errors = _jackknife(all_six, real, generated, groups)
    return {
        name: Estimate(value, se) for name, value, se in zip(MEASURES, values.tolist(), errors.tolist(), strict=True)
    }


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """FID: ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½), 0 for equal means and covariances.

    Computed by torchmetrics. Biased upwards by about a constant over n, so figures with different n do not compare.

    Args:
        a: features, shape (N, d).
        b: features, shape (M, d).

    References:
        Heusel et al. (2017), "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium".
    """
    from torchmetrics.image.fid import FrechetInceptionDistance  # takes seconds to import

    given = nn.Identity()
    given.num_features = a.shape[1]  # type: ignore[assignment]  # where torchmetrics looks for it
    metric = FrechetInceptionDistance(feature=given).to(a.device)
    centre = a.mean(0)  # it sums squares, which lose digits far from the origin
    metric.update((a - centre).double(), real=True)
    metric.update((b - centre).double(), real=False)
    return float(metric.compute())


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """KID: the unbiased estimate of MMD² with the kernel (aᵀb/d + 1)³; 0 on average for equal distributions.

    From all pairs at once. torchmetrics averages random subsets instead, which overlap, so the spread that it gives
    beside its value is no standard error; with one subset of all data it gives this value.

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
    """Four shares of neighbourhoods; all but density are at most 1.

    Attributes:
        precision: share of generated data inside the ball of some datum.
        recall: share of data inside the ball of some generated datum.
        density: mean number of data in whose balls a generated datum lies, over k; 1 on average if the laws are equal.
        coverage: share of data whose ball holds generated data.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Tensor, generated: Tensor, neighbours: int = 5) -> PRDC:
    """Precision, recall, density and coverage; the ball of a point reaches to its k-th neighbour in its own set.

    If the laws are equal, density is 1 and coverage 1 − Π_{i=1..k} (N − i) / (M + N − i) in expectation, whatever the
    law is. Precision and recall have no such value, and an outlier among the data, with its large ball, raises
    precision; density and coverage were made to withstand that.

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
        distance[places, number * CHUNK + places] = torch.inf  # a row is no neighbour of itself
        parts.append(distance.kthvalue(neighbours, 1).values)
    return torch.cat(parts)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return ((a * b).sum(-1) / a.shape[-1] + 1) ** 3


def _kernel_sum(a: Tensor, b: Tensor) -> float:
    return sum(float(((few @ b.T / b.shape[1] + 1) ** 3).sum()) for few in a.split(CHUNK))


def _jackknife(statistic: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, groups: int) -> Tensor:
    """Standard errors of a statistic of n pairs of rows, by leaving out one group of pairs after another."""
    group = torch.arange(len(a), device=a.device) % groups
    without = torch.stack([statistic(a[group != g], b[group != g]) for g in range(groups)])
    return ((groups - 1) * without.var(0, correction=0)).sqrt()
