"""The least likely code on a way between two, where it is known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from latent_cases import Prior, Shifted, share_covered, standard
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, Transform, constraints
from zuko.distributions import DiagNormal, NormalizingFlow

from flowvae import Digits, Experiment
from flowvae.core.errors import FlowvaeError
from flowvae.core.registry import families
from flowvae.evaluation import MEASURES, EvaluationContext
from flowvae.evaluation.latent.interpolation import different_pairs, interpolate_codes, measure_interpolation
from flowvae.networks import MLP

EXACT = Shifted(1e-9)  # codes are the data
CONSTANT = -math.log(2 * math.pi)  # log of the largest density of N(0, I) in the plane


class Cubic(Transform):
    """u_1 = z_1³ + z_1, the *normalizing* direction, and u_2 = z_2: a prior with two modes in z_1."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def _call(self, z: Tensor) -> Tensor:
        return torch.stack((z[..., 0] ** 3 + z[..., 0], z[..., 1]), -1)

    def _inverse(self, u: Tensor) -> Tensor:
        root = 2 / 3**0.5 * ((1.5 * 3**0.5 * u[..., 0]).asinh() / 3).sinh()  # the only real one
        return torch.stack((root, u[..., 1]), -1)

    def log_abs_det_jacobian(self, z: Tensor, u: Tensor) -> Tensor:
        return (3 * z[..., 0] ** 2 + 1).log()


def two_modes() -> Prior:
    return Prior(NormalizingFlow(Cubic(), DiagNormal(torch.zeros(2), torch.ones(2))))


@pytest.mark.usefixtures("float64")
def test_on_a_segment_of_a_gaussian_an_end_is_lowest() -> None:
    """Log N(0, I) is concave: the lowest on a straight way is −max(‖a‖², ‖b‖²)/2 − log 2π, both ways the same."""
    start, end = torch.randn(2, 70, 2)
    result = measure_interpolation(standard(2), EXACT, start, end)
    exact = CONSTANT - torch.maximum(start.square().sum(1), end.square().sum(1)) / 2
    for lowest in (result.ends, result.straight, result.base):
        torch.testing.assert_close(lowest, exact, rtol=0, atol=1e-6)
    metrics = {metric.name: metric for metric in result.metrics("test", {"seed": 0})}
    assert metrics["path_base_above_straight"].value == pytest.approx(0, abs=1e-9)
    assert metrics["path_lowest_straight"].protocol == {"seed": 0, "pairs": 70, "draws": 1, "steps": 97}


@pytest.mark.usefixtures("float64")
def test_stated_errors_cover_the_mean_over_pairs() -> None:
    """Codes N(0, I): ‖z‖²/2 is exponential, and the larger of two of mean 3/2."""
    found = []
    for seed in range(100):
        result = measure_interpolation(standard(2), Shifted(1.0), *torch.zeros(2, 80, 2), steps=5, seed=seed)
        lowest = {metric.name: metric for metric in result.metrics("test", {})}["path_lowest_straight"]
        assert lowest.se is not None
        found.append((lowest.value, lowest.se))
    assert 88 <= share_covered(found, CONSTANT - 1.5) <= 100


@pytest.mark.usefixtures("float64")
def test_the_valley_between_two_modes() -> None:
    """Both ways against the density by hand, on a much finer grid; the way of the base crosses the valley elsewhere."""
    start, end = torch.tensor([[0.9, 0.0], [0.8, -0.3]]), torch.tensor([[-0.5, 0.8], [-0.8, 0.3]])
    result = measure_interpolation(two_modes(), EXACT, start, end, steps=2001)

    def log_prob(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        u = z[:, 0] ** 3 + z[:, 0]
        density: np.ndarray[Any, Any] = CONSTANT - (u**2 + z[:, 1] ** 2) / 2 + np.log(3 * z[:, 0] ** 2 + 1)
        return density

    assert result.base is not None
    share = np.linspace(0, 1, 20_001)[:, None]
    for pair in range(2):
        a, b = start[pair].numpy(), end[pair].numpy()
        straight = log_prob((1 - share) * a + share * b).min()
        first, last = (np.array([z[0] ** 3 + z[0], z[1]]) for z in (a, b))
        u = (1 - share) * first + share * last
        cubic = np.interp(u[:, 0], (grid := np.linspace(-2, 2, 400_001)) ** 3 + grid, grid)
        base = log_prob(np.stack((cubic, u[:, 1]), 1)).min()
        assert result.straight[pair].item() == pytest.approx(straight, abs=1e-5)
        assert result.base[pair].item() == pytest.approx(base, abs=1e-5)
        assert result.ends[pair].item() == pytest.approx(min(log_prob(np.stack((a, b)))), abs=1e-5)
    assert result.base[0] < result.straight[0] - 0.02  # it crosses farther from the axis
    # between the modes of the symmetric pair the lowest is at 0, and exactly that of N(0, I) there
    assert result.straight[1].item() == pytest.approx(CONSTANT, abs=1e-9)
    assert (result.straight < result.ends - 0.03).all()


def test_ways_end_at_their_codes_and_are_one_under_a_gaussian() -> None:
    start, end = torch.randn(2, 5, 2)
    for prior, same in ((two_modes(), False), (standard(2), True)):
        ways = interpolate_codes(prior, start, end, steps=5)
        assert set(ways) == {"base", "straight"}
        for way in ways.values():
            torch.testing.assert_close(way[0], start, rtol=0, atol=1e-5)
            torch.testing.assert_close(way[-1], end, rtol=0, atol=1e-5)
        assert torch.allclose(*ways.values(), atol=1e-4) == same
    with pytest.raises(FlowvaeError, match="steps = 1"):
        interpolate_codes(standard(2), start, end, steps=1)


def test_a_mixture_has_the_straight_way_alone() -> None:
    centres = torch.tensor([[-2.0, 0.0], [2.0, 0.0]])
    parts = Independent(Normal(centres, torch.ones(2, 2)), 1)
    result = measure_interpolation(
        Prior(MixtureSameFamily(Categorical(torch.ones(2)), parts)), EXACT, centres[:1], centres[1:]
    )
    assert result.base is None
    # half way, each component is 2 standard deviations off
    assert result.straight.item() == pytest.approx(CONSTANT - 2, abs=1e-3)
    assert [metric.name for metric in result.metrics("test", {})] == ["path_lowest_ends", "path_lowest_straight"]


def test_pairs_are_of_different_labels_and_no_datum_is_in_two() -> None:
    data = Digits().load(0)
    start, end = different_pairs(data, 1000, seed=0)
    assert data.labels is not None
    label = {tuple(x.flatten().tolist()): int(y) for x, y in zip(data.test, data.labels["test"], strict=True)}
    rows = [tuple(x.flatten().tolist()) for x in torch.cat((start, end))]
    assert len(set(rows)) == len(rows) > 200
    assert all(label[a] != label[b] for a, b in zip(rows[: len(start)], rows[len(start) :], strict=True))
    few, _ = different_pairs(data, 7, seed=0)
    assert torch.equal(few, start[:7])
    assert not torch.equal(few, different_pairs(data, 7, seed=1)[0])
    one = replace(data, labels={split: torch.zeros_like(y) for split, y in data.labels.items()})
    with pytest.raises(FlowvaeError, match="different labels"):
        different_pairs(one, 7, seed=0)
    start, _ = different_pairs(replace(data, labels=None), 1000, seed=0, split="valid")
    assert len(start) == len(data.valid) // 2


@pytest.mark.parametrize(("prior", "metrics"), [("maf", 4), ("mixture", 2)])
def test_the_measure_says_its_unit_and_protocol(prior: str, metrics: int) -> None:
    data = Digits().load(0)
    experiment = Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,)), prior=families("prior")[prior].default)
    context = EvaluationContext(*experiment.build(data), data, "test", 20, 0, {"measure": "its name"})
    taken = MEASURES["interpolation"](context).metrics
    assert len(taken) == metrics
    for metric in taken:
        assert metric.unit == "nats per pair"
        assert metric.se is not None
        assert metric.protocol["measure"] == "its name"
        assert metric.protocol["pairs"] <= len(data.test) // 2
