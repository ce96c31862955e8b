"""The test for copies of training data: on copies, on honest samples, and its error bar."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Size, Tensor, nn

from flowvae import FlowvaeError
from flowvae.data import Dataset
from flowvae.evaluation.figures.generation_plots import plot_memorization
from flowvae.evaluation.samples.memorization import Memorization, measure_memorization, two_sample_z
from flowvae.models import VAE, GaussianLikelihood, StandardNormal


def normal(count: int, features: int, seed: int) -> Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed))


def gaussian_data(count: int = 300, features: int = 4, seed: int = 0) -> Dataset:
    train, valid, test = normal(3 * count, features, seed).reshape(-1, 1, 2, features // 2).split(count)
    return Dataset(
        train,
        valid,
        test,
        likelihood=GaussianLikelihood(),
        name="normal",
        preprocessing="none",
        split="simulated",
    )


class Copies(nn.Module):
    """Gives training data again, with a little noise."""

    def __init__(self, train: Tensor, noise: float) -> None:
        super().__init__()
        self.train_data = train
        self.noise = noise

    def forward(self, size: int) -> Tensor:
        chosen = self.train_data[torch.randint(len(self.train_data), (size,))]
        return chosen + self.noise * torch.randn_like(chosen)


class Honest(nn.Module):
    """Draws from the law of the data."""

    def forward(self, size: int) -> Tensor:
        return torch.randn(size, 1, 2, 2)


def result_of(generated: Tensor, held_out: Tensor) -> Memorization:
    empty = torch.zeros(len(generated), 1)
    return Memorization(empty, generated, empty[:, 0].long(), held_out, "draws", 1, 1.0, 0)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_copies_are_found(noise: float) -> None:
    data = gaussian_data()
    result = measure_memorization(Copies(data.train, noise), data)
    assert result.z < -10
    assert result.nearer[0] > 0.9
    if noise == 0:
        assert result.generated.max() == 0
        assert result.samples.equal(data.train[result.neighbours])
        assert result.nearer == (1.0, 0.0)


def test_honest_samples_are_not_accused() -> None:
    """z of 100 models that draw from the law of the data, each with data of its own, is standard normal."""
    found = torch.tensor([measure_memorization(Honest(), gaussian_data(60, seed=r), seed=r).z for r in range(100)])
    assert stats.kstest(found.numpy(), "norm").pvalue > 0.01
    assert (found.abs() < 1.96).float().mean() >= 0.88


def test_samples_far_from_the_data_are_no_copies() -> None:
    data = gaussian_data()
    wide = Copies(torch.cat((data.test, -data.test)), noise=3.0)
    assert measure_memorization(wide, data).z > 10


def test_means_look_copied_though_nothing_is() -> None:
    """They lack the noise of the data, and so lie nearer to all of them: a comparison of means misleads."""
    decoder = nn.Linear(2, 4)
    with torch.no_grad():
        decoder.weight.copy_(torch.eye(4)[:, :2])
        decoder.bias.zero_()
    spec = GaussianLikelihood(scale=0.5)
    law = VAE(StandardNormal().build(2), decoder, spec.build(Size((4,)), spec.units(normal(1000, 4, 9))))
    with torch.no_grad():
        train, valid, test = law(size=900).split(300)
    data = Dataset(
        train, valid, test, likelihood=GaussianLikelihood(), name="linear", preprocessing="none", split="simulated"
    )
    assert abs(measure_memorization(law, data).z) < 3
    assert measure_memorization(law, data, of="means").z < -4


def test_z_is_that_of_scipy() -> None:
    """Its two-sided p-value is scipy's, with many ties and without."""
    for digits in (0, 6):
        a, b = normal(50, 1, 0)[:, 0].round(decimals=digits), normal(40, 1, 1)[:, 0].round(decimals=digits) + 1
        p = stats.mannwhitneyu(a, b, method="asymptotic", use_continuity=False).pvalue
        assert 2 * stats.norm.cdf(-abs(two_sample_z(a, b))) == pytest.approx(p)
        assert two_sample_z(a, b) < 0
        assert two_sample_z(a, b) == pytest.approx(-two_sample_z(b, a))
    assert two_sample_z(torch.ones(5), torch.ones(4)) == 0.0


def test_z_of_samples_that_are_all_nearer() -> None:
    """U = 0: z = −√(3 n m / (n + m + 1))."""
    z = two_sample_z(torch.arange(20.0), torch.arange(100.0, 130.0))
    assert z == pytest.approx(-math.sqrt(3 * 20 * 30 / 51))


def test_the_error_of_the_share() -> None:
    """P(a < b) = Φ(1/√5) for N(0, 1) and N(1, 4): over 100 repeats ±2 s.e. covers it as often as it should."""
    exact = stats.norm.cdf(1 / math.sqrt(5))
    found = [result_of(normal(60, 1, 2 * r)[:, 0], 1 + 2 * normal(50, 1, 2 * r + 1)[:, 0]).nearer for r in range(100)]
    assert 88 <= sum(abs(value - exact) < 2 * se for value, se in found) <= 100
    spread = float(torch.tensor([value for value, _ in found]).std())
    assert math.sqrt(sum(se**2 for _, se in found) / 100) == pytest.approx(spread, rel=0.25)


def test_the_components_hold_the_variance_that_they_say() -> None:
    data = gaussian_data()
    scales = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
    flat = Dataset(
        data.train * scales,
        data.valid * scales,
        data.test * scales,
        likelihood=GaussianLikelihood(),
        name="flat",
        preprocessing="none",
        split="simulated",
    )
    result = measure_memorization(Copies(flat.train, 0.0), flat, components=1)
    spread = flat.train.flatten(1).T.cov()
    assert result.share == pytest.approx(float(torch.linalg.eigvalsh(spread)[-1] / spread.trace()), rel=1e-5)
    assert measure_memorization(Copies(flat.train, 0.0), flat).components == 4


def test_the_seed_decides() -> None:
    data = gaussian_data()
    one, again, other = (measure_memorization(Honest(), data, seed=seed).z for seed in (0, 0, 1))
    assert one == again != other


def test_metrics() -> None:
    data = gaussian_data(50)
    z, share = measure_memorization(Honest(), data, split="valid", count=40).metrics("valid", {"data": "normal"})
    assert (z.name, z.se, share.name) == ("memorization_z", 1.0, "nearer_than_held_out")
    assert z.protocol == {
        "data": "normal",
        "generated": "draws",
        "n": 40,
        "components": 4,
        "share_of_variance": pytest.approx(1.0),
        "seed": 0,
    }


def test_mistakes() -> None:
    data = gaussian_data(50)
    with pytest.raises(FlowvaeError, match="components = 0"):
        measure_memorization(Honest(), data, components=0)
    with pytest.raises(FlowvaeError, match="1 to 50"):
        measure_memorization(Honest(), data, count=51)
    with pytest.raises(FlowvaeError, match="held-out data"):
        measure_memorization(Honest(), data, split="train")


def test_the_figure_shows_the_pairs() -> None:
    data = gaussian_data()
    figure = plot_memorization(measure_memorization(Copies(data.train, 0.1), data), data)
    (right,) = figure.axes
    (left,) = right.child_axes
    assert "distance" in left.get_xlabel()
    assert left.get_legend() is not None
    assert len(right.images) == 1


def test_images_are_measured_as_their_rows() -> None:
    data = gaussian_data()
    images = measure_memorization(Copies(data.train, 0.1), data)
    rows = measure_memorization(Copies(data.flat().train, 0.1), data.flat())
    assert images.samples.shape == (300, 1, 2, 2)
    assert images.samples.flatten(1).equal(rows.samples)
    assert images.generated.equal(rows.generated)
    assert images.held_out.equal(rows.held_out)
