"""FID, KID and PRDC on cases whose answer is known, their error bars, and the measure of a model made of them."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from scipy import stats
from scipy.linalg import sqrtm
from torch import Size, Tensor, nn

from flowvae import FlowvaeError
from flowvae.data import Dataset
from flowvae.evaluation import read_metrics, write_metrics
from flowvae.evaluation.figures.generation_plots import plot_fid_bias
from flowvae.evaluation.samples import feature_distances
from flowvae.evaluation.samples.feature_distances import (
    MEASURES,
    compare_features,
    frechet_distance,
    kernel_distance,
    prdc,
)
from flowvae.evaluation.samples.features import whiten
from flowvae.evaluation.samples.generation import expected_fid, fid_at_sizes, measure_generation
from flowvae.evaluation.samples.sampling import generate
from flowvae.models import VAE, GaussianLikelihood, LinearGaussian, StandardNormal


def normal(count: int, features: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, features, generator=generator, dtype=torch.float64)


def exact_moments(count: int, features: int, seed: int) -> Tensor:
    """Data whose own mean is 0 and whose own covariance is I, to rounding."""
    x = normal(count, features, seed)
    x = x - x.mean(0)
    return torch.linalg.qr(x).Q * math.sqrt(count - 1)


def expected_coverage(real: int, generated: int, neighbours: int) -> float:
    """E coverage of N data by M generated data of the same law (Naeem et al. 2020)."""
    return 1 - math.prod((real - i) / (generated + real - i) for i in range(1, neighbours + 1))


def linear_vae(noise: float = 0.5) -> VAE:
    """x ~ N(μ, W Wᵀ + noise² I) in four dimensions."""
    decoder = nn.Linear(2, 4)
    with torch.no_grad():
        decoder.weight.copy_(torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.0, -1.0], [1.0, 1.0]]))
        decoder.bias.copy_(torch.tensor([1.0, -1.0, 0.0, 2.0]))
    spec = GaussianLikelihood(scale=noise)
    likelihood = spec.build(Size((4,)), spec.units(normal(100, 4, 0).float()))
    return VAE(StandardNormal().build(2), decoder, likelihood)


def drawn_from(model: VAE, count: int = 400, seed: int = 5) -> Dataset:
    x = generate(model, 3 * count, seed=seed)
    train, valid, test = x.split(count)
    return Dataset(
        train, valid, test, likelihood=GaussianLikelihood(), name="linear", preprocessing="none", split="simulated"
    )


def test_fid_of_commuting_gaussians() -> None:
    """‖Δμ‖² + Σ (s_i − t_i)² where both covariances have the same axes."""
    s, t = torch.tensor([1.0, 0.2, 3.0]).double(), torch.tensor([0.5, 2.0, 3.0]).double()
    shift = torch.tensor([1.0, -2.0, 0.5]).double()
    turn = torch.linalg.qr(normal(3, 3, 0)).Q
    a = (exact_moments(50, 3, 1) * s) @ turn + 100.0
    b = (exact_moments(80, 3, 2) * t + shift) @ turn + 100.0
    exact = float(shift.square().sum() + (s - t).square().sum())
    assert frechet_distance(a, b) == pytest.approx(exact, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(exact, rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)


def test_fid_of_gaussians_that_do_not_commute() -> None:
    first, second = normal(3, 3, 3), normal(3, 3, 4)
    a, b = exact_moments(40, 3, 1) @ first, exact_moments(40, 3, 2) @ second
    one, other = (first.T @ first).numpy(), (second.T @ second).numpy()
    exact = (one + other - 2 * sqrtm(one @ other).real).trace()
    assert frechet_distance(a, b) == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("count", [100, 400])
def test_the_bias_of_fid_falls_with_1_over_n(count: int) -> None:
    """Equal laws, true FID 0: the mean over repeats is what theory says, within four standard errors."""
    scales = torch.tensor([0.5, 1.0, 2.0]).double()
    found = torch.tensor(
        [frechet_distance(normal(count, 3, 2 * r) * scales, normal(count, 3, 2 * r + 1) * scales) for r in range(100)]
    )
    theory = expected_fid(torch.diag(scales**2), count)
    second_order = 3 * theory / count
    assert abs(float(found.mean()) - theory) < 4 * float(found.std()) / 10 + second_order
    assert float(found.mean()) > 4 * float(found.std()) / 10  # and 0 is far off


def test_expected_fid_of_the_identity() -> None:
    assert expected_fid(torch.eye(32), 270) == pytest.approx(32 * 37 / 2 / 270)
    flat = torch.diag(torch.cat((torch.ones(32), torch.zeros(5))))  # features that never fire
    assert expected_fid(flat, 270) == pytest.approx(32 * 37 / 2 / 270)


def test_kid_is_that_of_torchmetrics() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    a, b = normal(60, 5, 0), normal(60, 5, 1) + 0.3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it will keep all features
        metric = KernelInceptionDistance(feature=nn.Identity(), subsets=1, subset_size=60)
    metric.update(a, real=True)
    metric.update(b, real=False)
    assert kernel_distance(a, b) == pytest.approx(float(metric.compute()[0]), rel=1e-9)


def exact_kid(features: int, shift: float) -> float:
    """MMD² of N(0, I) and N(m, I), every m_i the shift: Σ_j C(3, j) d^−j ‖E a^⊗j − E b^⊗j‖²."""
    d, q = features, features * shift**2
    return 3 * q / d + 3 * q**2 / d**2 + (q**3 + 6 * q**2 + (3 * d + 6) * q) / d**3


@pytest.mark.parametrize("features", [1, 4])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_kid_is_unbiased(features: int, shift: float) -> None:
    found = torch.tensor(
        [kernel_distance(normal(50, features, 2 * r), normal(50, features, 2 * r + 1) + shift) for r in range(300)]
    )
    assert abs(float(found.mean()) - exact_kid(features, shift)) < 4 * float(found.std()) / math.sqrt(300)


def test_prdc_by_hand() -> None:
    """On a line, k = 1: balls of data reach 1, 1, 3 and 15, those of generated data 0.5, 0.5 and 8.5."""
    real = torch.tensor([[0.0], [1.0], [4.0], [19.0]])
    generated = torch.tensor([[0.25], [0.75], [9.25]])
    result = prdc(real, generated, neighbours=1)
    assert result.precision == 1.0  # 9.25 is in the large ball of the outlier 19
    assert result.recall == 3 / 4  # 19 is in no ball
    assert result.density == pytest.approx((2 + 2 + 1) / 3)
    assert result.coverage == 3 / 4  # the ball of 4 is empty


@pytest.mark.parametrize("law", ["normal", "heavy"])
def test_density_and_coverage_of_equal_laws(law: str) -> None:
    """Their expectations do not depend on the law, nor on its dimension."""
    real, generated, k = 60, 40, 3

    def draw(count: int, seed: int) -> Tensor:
        x = normal(count, 2, seed)
        return x if law == "normal" else torch.sinh(2 * x)

    found = [prdc(draw(real, 2 * r), draw(generated, 2 * r + 1), k) for r in range(200)]
    for name, exact in (("density", 1.0), ("coverage", expected_coverage(real, generated, k))):
        values = torch.tensor([getattr(result, name) for result in found])
        assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / math.sqrt(200)


def test_lost_modes_and_bad_samples_are_told_apart() -> None:
    real = torch.cat((normal(100, 2, 0), normal(100, 2, 1) + 20))
    half = normal(200, 2, 2)
    wild = torch.cat((normal(100, 2, 3), normal(100, 2, 4) + 20))
    wild[::2] += torch.tensor([50.0, -50.0])
    lost, bad = prdc(real, half), prdc(real, wild)
    assert lost.precision > 0.9
    assert lost.recall < 0.6
    assert lost.coverage < 0.6
    assert bad.precision == pytest.approx(0.5, abs=0.05)
    assert bad.density < 0.7
    assert bad.recall > 0.9


def test_measures_do_not_depend_on_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(101, 3, 0), normal(101, 3, 1) * 1.5
    at_once = compare_features(a, b, groups=4)
    monkeypatch.setattr(feature_distances, "CHUNK", 13)
    in_parts = compare_features(a, b, groups=4)
    for name in MEASURES:
        assert in_parts[name] == pytest.approx(at_once[name], rel=1e-9)


def test_error_bars() -> None:
    """Over 100 repeats 95 % intervals, t with groups − 1 degrees, cover the truth that often, and are not idly wide."""
    count, features, shift, k, groups = 100, 8, 0.3, 3, 10
    reach = stats.t.ppf(0.975, groups - 1)
    differing, equal = [], []
    for r in range(100):
        a, b = normal(count, features, 2 * r), normal(count, features, 2 * r + 1)
        differing.append(compare_features(a, b + shift, k, groups))
        equal.append(compare_features(a, b, k, groups))
    truths = {
        ("fid", "differing"): features * shift**2 + expected_fid(torch.eye(features), count),
        ("kid", "differing"): exact_kid(features, shift),
        ("kid", "equal"): 0.0,
        ("density", "equal"): 1.0,
        ("coverage", "equal"): expected_coverage(count, count, k),
    }
    for (name, laws), truth in truths.items():
        found = [estimates[name] for estimates in (differing if laws == "differing" else equal)]
        covered = sum(abs(value - truth) < reach * se for value, se in found)
        spread = float(torch.tensor([value for value, _ in found]).std())
        stated = math.sqrt(sum(se**2 for _, se in found) / 100)
        assert covered >= 88, (name, laws)
        assert 0.8 < stated / spread < 2.2, (name, laws)


def test_a_generator_that_is_right_scores_as_theory_says() -> None:
    """In whitened data, draws of the true model: FID at its bias; means: Σ (1 − √(share of signal))² above that."""
    model = linear_vae()
    data = drawn_from(model)
    features = whiten(data)
    draws, means = (measure_generation(model, data, features, of=of) for of in ("draws", "means"))
    bias = expected_fid(torch.eye(4), 400)
    assert isinstance(model.decoder, nn.Linear)
    weight = model.likelihood.unit[:, None] * model.decoder.weight.detach()
    signal = torch.linalg.eigvalsh(weight @ weight.T).clamp_min(0)
    exact = float((1 - (signal / (signal + 0.25)).sqrt()).square().sum())
    assert abs(draws.generated["fid"].value - bias) < 4 * draws.generated["fid"].se
    assert abs(draws.train["fid"].value - bias) < 4 * draws.train["fid"].se
    assert abs(means.generated["fid"].value - exact - bias) < 4 * means.generated["fid"].se
    assert means.generated["fid"].value > draws.generated["fid"].value + 5 * means.generated["fid"].se
    assert abs(draws.generated["density"].value - 1) < 4 * draws.generated["density"].se


def test_it_works_for_models_without_a_latent_network() -> None:
    model = LinearGaussian(torch.randn(4, 2), torch.zeros(4), 0.5)
    data = drawn_from(linear_vae(), 100)
    assert measure_generation(model, data, whiten(data), count=50).generated["fid"].value > 0
    with pytest.raises(FlowvaeError, match=r"LinearGaussian has no E\[x \| z\]"):
        measure_generation(model, data, whiten(data), of="means")


def test_the_seed_decides_and_blocks_do_not() -> None:
    model = linear_vae()
    few, many, other = generate(model, 600), generate(model, 1100), generate(model, 600, seed=1)
    assert few[:500].equal(many[:500])
    assert not few.equal(other)
    assert not many[:500].equal(many[500:1000])
    data = drawn_from(model, 100)
    before = torch.get_rng_state()
    one, again = (measure_generation(model, data, whiten(data)) for _ in range(2))
    assert one == again
    assert torch.get_rng_state().equal(before)


def test_metrics_name_their_protocol(tmp_path: Path) -> None:
    model = linear_vae()
    data = drawn_from(model, 60)
    result = measure_generation(model, data, whiten(data), of="means", seed=3)
    metrics = result.metrics("test", {"data": data.identity.as_dict()})
    write_metrics(tmp_path / "metrics.json", metrics)
    assert read_metrics(tmp_path / "metrics.json") == metrics
    by_name = {metric.name: metric for metric in metrics}
    assert set(by_name) == {f"{name}_of_{what}" for name in MEASURES for what in ("means", "train")}
    protocol = by_name["fid_of_means"].protocol
    assert {key: protocol[key] for key in ("generated", "n", "k", "seed")} == {
        "generated": "means",
        "n": 60,
        "k": 5,
        "seed": 3,
    }
    assert json.loads(json.dumps(protocol))["features"]["trained_on"] == data.identity.sha256
    assert all(metric.se is not None and metric.se >= 0 for metric in metrics)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"of": "mean"}, "did you mean means"),
        ({"split": "train"}, "held-out data"),
        ({"count": 101}, "1 to 100"),
        ({"count": 2.5}, "whole number"),
        ({"count": 5}, "5 data, neighbours = 5"),
        ({"neighbours": 0}, "neighbours = 0"),
        ({"neighbours": 95}, "neighbours = 95"),
    ],
)
def test_mistakes(settings: dict[str, object], message: str) -> None:
    model = linear_vae()
    data = drawn_from(model, 100)
    with pytest.raises(FlowvaeError, match=message):
        measure_generation(model, data, whiten(data), **settings)  # type: ignore[arg-type]


def test_sets_of_different_sizes_are_refused() -> None:
    with pytest.raises(FlowvaeError, match="must be the same"):
        compare_features(normal(50, 2, 0), normal(51, 2, 0))


def test_the_figure_of_the_bias() -> None:
    """Small n misleads: parts of the same law seem farther apart than two laws that differ at larger n."""
    a, b, c = normal(800, 8, 0), normal(800, 8, 1), normal(800, 8, 2) + 0.2
    same, differing = (fid_at_sizes(a, other, (25, 50, 100, 400), repeats=5) for other in (b, c))
    assert same[same["n"] == 25]["fid"].min() > differing[differing["n"] == 400]["fid"].max()
    assert same.equals(fid_at_sizes(a, b, (25, 50, 100, 400), repeats=5))
    figure = plot_fid_bias({"equal": same, "shifted": differing}, torch.eye(8))
    (ax, *_) = figure.axes
    assert "1 / n" in ax.get_xlabel()
    assert "FID" in ax.get_ylabel()
    with pytest.raises(FlowvaeError, match="2 to 800"):
        fid_at_sizes(a, b, (801,))
