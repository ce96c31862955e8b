"""Real-valued data in float32: densities in the original units, and what cannot be computed is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from flowvae import Experiment, Training, as_data
from flowvae.cli.command import main
from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import LikelihoodSpec, parse_likelihood
from flowvae.data import Arrays, Dataset, DataSpec, Digits, Moons, Pinwheel, Sprites, StaticMNIST
from flowvae.models import GaussianLikelihood, Likelihood, default_autoregressive_likelihood
from flowvae.models.likelihoods.likelihood import LEAST_LOG_SCALE
from flowvae.networks import MLP

SPLITS = ("train", "valid", "test")


def saved(path: Path, likelihood: str = "gaussian", **parts: np.ndarray) -> Arrays:
    np.savez(path / "x.npz", **parts)  # type: ignore[arg-type]
    return Arrays(path / "x.npz", likelihood)  # type: ignore[arg-type]


def built(spec: LikelihoodSpec, train: Tensor) -> Likelihood:
    return spec.build(train.shape[1:], spec.units(train))  # type: ignore[return-value]


def normal(rows: int, columns: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns))


@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian:0.7"])
@pytest.mark.parametrize(
    ("offset", "spread"),
    [(0.0, 1.0), (1e8, 1.0), (-1e12, 1.0), (1.7e9, 3.0), (1.0, 1e-7), (2000.0, 3.0)],
    ids=["none", "1e8", "-1e12", "epoch seconds", "ratio", "years"],
)
def test_the_density_is_that_of_the_original_numbers(
    tmp_path: Path, offset: float, spread: float, likelihood: str
) -> None:
    """N(x; mean, sd) of float64 data by SciPy, for a decoder that gives zero; a fixed scale is one of the spread."""
    if likelihood != "gaussian":
        likelihood = f"gaussian:{0.7 * spread}"
    parts = {split: offset + spread * normal(60, seed=i) for i, split in enumerate(SPLITS)}
    data = saved(tmp_path, likelihood, **parts).load(0)
    found = built(data.likelihood, data.train)(torch.zeros(60, 3)).log_prob(data.test)
    scale = parts["train"].std(0, ddof=1) if likelihood == "gaussian" else 0.7 * spread
    expected = scipy.stats.norm.logpdf(parts["test"], parts["train"].mean(0), scale).sum(1)
    np.testing.assert_allclose(found.numpy(force=True), expected, atol=2e-3)
    for split in SPLITS:
        original = data.original(getattr(data, split)).double().numpy()
        np.testing.assert_allclose(original, parts[split], atol=1e-6 * spread + 1e-7 * (abs(offset) < 1e4) * offset)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="no type here that holds 63 bits and a fraction")
def test_whole_numbers_above_the_digits_of_float32_and_float64(tmp_path: Path) -> None:
    """Nanoseconds since 1970: float64 holds them in steps of 256."""
    steps = np.random.default_rng(0).integers(-300, 300, (50, 1))
    whole = 1_700_000_000_000_000_000 + steps
    data = saved(tmp_path, train=whole, valid=whole, test=whole).load(0)
    moved = data.train[:, 0].double().numpy() - steps[:, 0]
    assert np.ptp(moved) == 0


def test_only_columns_that_need_it_have_an_offset(tmp_path: Path) -> None:
    x = normal(50) * [1, 5, 3] + [0, 20, 1.7e9]
    data = saved(tmp_path, train=x).load(0)
    assert data.offset is not None
    assert data.offset[:2].tolist() == [0, 0]
    assert abs(data.offset[2] - 1.7e9) < 3
    assert "from column 2" in data.identity.preprocessing
    assert saved(tmp_path, train=x[:, :2]).load(0).identity.preprocessing == "none"


def test_the_offset_belongs_to_the_identity(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(-5, 5, (50, 2)).astype(float)
    first, again, other = (saved(tmp_path, train=x + shift).load(0) for shift in (1e8, 1e8, 2e8))
    assert torch.equal(first.train, other.train)
    assert first.identity == again.identity
    assert first.identity.sha256 != other.identity.sha256
    first_seed, other_seed = (saved(tmp_path, train=x + 1e8).load(seed).offset for seed in (0, 1))
    assert first_seed is not None
    assert other_seed is not None
    assert torch.equal(first_seed, other_seed)


def test_a_trained_run_measures_and_samples_in_original_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same data with and without an offset of 1e8 have the same NLL."""
    monkeypatch.chdir(tmp_path)
    small = Experiment(latent=1, encoder=MLP((4,)), decoder=MLP((4,)), inference=Training(epochs=2, batch_size=32))
    nll = {}
    for offset in (0.0, 1e8):
        spec = saved(tmp_path, train=normal(64) + offset)
        run = replace(small, data=spec).run(f"run{offset:g}", draws=50, figures=False, progress=False)
        nll[offset] = run.metric("nll").value
    assert nll[1e8] == pytest.approx(nll[0.0], abs=1e-4)
    assert main(["sample", "run1e+08", "--count", "40", "--out", "drawn.npz"]) == 0
    with np.load("drawn.npz") as drawn:
        assert drawn["x"].dtype == drawn["mean"].dtype == np.float64
        assert np.abs(drawn["x"] - 1e8).max() < 20
        assert np.unique(drawn["x"]).size == 120


OUTLIER = normal(60)
OUTLIER[7, 2] = 1e30
MILDER = np.where(OUTLIER == 1e30, 1e12, OUTLIER)
BEYOND = np.where(OUTLIER == 1e30, 1e300, OUTLIER)


@pytest.mark.parametrize(
    ("x", "likelihood", "said"),
    [
        (BEYOND, "gaussian", r"1e\+300 at row 7, column 2"),
        (BEYOND, "bernoulli", r"1e\+300 at row 7, column 2"),
        (OUTLIER, "gaussian", r"column 2 .*1e\+30"),
        (MILDER, "gaussian", r"column 2 .*outliers such as 1e\+12 at row 7"),
        (normal(60) * [1, 1e-20, 1], "gaussian", r"column 1 .*e-2\d"),
        (normal(60) * [1, 1e-60, 1], "gaussian", "column 1"),
        (normal(60) * 1e20, "gaussian", r"column \d .*e\+20"),
        (normal(60) * [1, 1, 0] + 2, "gaussian", r"column 2 is constant \(2\)"),
        (np.full((60, 3), 1.7e9), "gaussian", r"column 0 is constant \(1\.7e\+09\), and so are 2 others"),
        (normal(60), "gaussian:1e-9", "noise scale 1e-09"),
    ],
)
def test_what_float32_cannot_compute_is_refused(tmp_path: Path, x: np.ndarray, likelihood: str, said: str) -> None:
    with pytest.raises(FlowvaeError, match=said) as refused:
        saved(tmp_path, likelihood, train=x).load(0)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("scale", ["1e-20", "1e20", "0", "nan", "inf", "1e400", "-1"])
def test_a_scale_that_cannot_be_is_refused(scale: str) -> None:
    with pytest.raises(FlowvaeError, match=r"GaussianLikelihood\.scale = "):
        parse_likelihood(f"gaussian:{scale}")


def test_held_out_data_far_outside_are_refused(tmp_path: Path) -> None:
    test = normal(5)
    test[3, 1] = 1e14
    with pytest.raises(FlowvaeError, match=r"test: value 1e\+14 at row 3, column 1"):
        saved(tmp_path, train=normal(60), test=test).load(0)


def tensor(x: np.ndarray) -> Dataset:
    t = torch.tensor(x, dtype=torch.float32)
    return Dataset(t, t, t, GaussianLikelihood(), "n", "p", "s")


def test_data_that_were_cast_too_early_are_refused() -> None:
    with pytest.raises(FlowvaeError, match=r"column 0 reaches 1e\+07, .*its standard deviation"):
        tensor(normal(60) + 1e7)
    tensor(normal(60) + 1e3)
    with pytest.raises(FlowvaeError, match="column 2 has outliers"):
        tensor(MILDER)


def test_columns_of_very_different_size_keep_their_own_units() -> None:
    """A column a hundred million times smaller than another is not a constant."""
    x = torch.tensor(normal(500) * [1, 1e8, 1e-6], dtype=torch.float32)
    model = built(GaussianLikelihood(), x)
    torch.testing.assert_close(model.unit, x.std(0))


def test_columns_of_very_different_size_cannot_share_a_unit() -> None:
    """The refusal names the scales of the columns, not outliers, which there are none of."""
    x = normal(500)[:, :2] * [1e8, 1e-6]
    with pytest.raises(FlowvaeError, match=r"column 1 .* all columns is [67]\..*e\+07.*gaussian:each"):
        as_data(x, "gaussian:shared").load(0)


def test_a_constant_column_under_a_fixed_scale() -> None:
    """It adds the density of its own noise, N(2; 2, 0.5)."""
    x = normal(50)
    x[:, 1] = 2.0
    t = torch.tensor(x, dtype=torch.float32)
    with pytest.raises(FlowvaeError, match="column 1 is constant"):
        GaussianLikelihood().units(t)
    model = built(GaussianLikelihood(0.5), t)
    found = model(torch.zeros(3)).log_prob(t).numpy()
    expected = scipy.stats.norm.logpdf(x, x.mean(0), 0.5).sum(1)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def images(rows: int, seed: int = 0) -> np.ndarray:
    """Images of 4×4 in [0, 1], whose border is black."""
    x = np.zeros((rows, 4, 4))
    x[:, 1:3, 1:3] = np.random.default_rng(seed).random((rows, 2, 2))
    return x


def test_images_with_a_constant_border_have_one_learned_scale(tmp_path: Path) -> None:
    """N(x; mean, pooled sd) by SciPy, for a decoder that gives zero."""
    parts = {split: images(60, seed=i) for i, split in enumerate(SPLITS)}
    with pytest.raises(FlowvaeError, match="gaussian:shared"):
        saved(tmp_path, "gaussian", **parts).load(0)
    arrays = saved(tmp_path, "gaussian:shared", **parts)
    data = arrays.load(0)
    found = built(data.likelihood, data.train)(torch.zeros(60, 1, 4, 4)).log_prob(data.test)
    flat = {split: x.reshape(60, 16) for split, x in parts.items()}
    scale = math.sqrt(flat["train"].var(0, ddof=1).mean())
    expected = scipy.stats.norm.logpdf(flat["test"], flat["train"].mean(0), scale).sum(1)
    np.testing.assert_allclose(found.numpy(force=True), expected, atol=1e-3)
    settings = Experiment(latent=2, data=arrays, inference=Training(epochs=1, device="cpu"))
    assert math.isfinite(settings.run(tmp_path / "run", draws=10, progress=False).metric("elbo").value)


@pytest.mark.parametrize("likelihood", ["gaussian:0.1", "gaussian:shared"])
def test_a_pixel_that_is_rare_in_train_does_not_blow_up(tmp_path: Path, likelihood: str) -> None:
    """A speck of 1/255 in one training image: a white pixel there lies at most 1/0.1 units away."""
    parts = {split: images(60, seed=i) for i, split in enumerate(SPLITS)}
    parts["train"][0, 0, 0], parts["test"][0, 0, 0] = 1 / 255, 1
    data = saved(tmp_path, likelihood, **parts).load(0)
    center, unit = data.likelihood.units(data.train)
    assert ((data.test - center) / unit).abs().max() <= 10


def test_columns_that_vary_less_than_the_noise_are_accepted(tmp_path: Path) -> None:
    """Rounding noise beside gaussian:0.1 is no outlier; the same noise beside an outlier is none either."""
    x = normal(60) * [1, 1, 1e-9]
    saved(tmp_path, "gaussian:0.1", train=x).load(0)
    x[0, 2] = 1
    saved(tmp_path, "gaussian:0.1", train=x).load(0)


def test_a_shared_scale_is_learned_and_of_some_spread(tmp_path: Path) -> None:
    with pytest.raises(FlowvaeError, match="column 0 is constant"):
        saved(tmp_path, "gaussian:shared", train=np.ones((60, 4))).load(0)


def test_a_learned_scale_has_a_bound_that_it_can_leave() -> None:
    model = built(GaussianLikelihood(), torch.tensor(normal(50), dtype=torch.float32))
    free = torch.nn.Parameter(torch.tensor(-50.0))
    model.log_scale = free
    density = model(torch.zeros(3))
    assert torch.allclose(density.base_dist.scale, model.unit * math.exp(LEAST_LOG_SCALE))
    density.log_prob(model.center + 1.0).backward()
    assert free.grad is not None
    assert free.grad > 0  # a wider scale makes this datum likelier
    with torch.no_grad():
        free.fill_(-6.5)
    assert torch.allclose(model(torch.zeros(3)).base_dist.scale, model.unit * math.exp(-6.5))


def specs(path: Path) -> dict[str, DataSpec]:
    generator = np.random.default_rng(0)
    images = {split: generator.integers(0, 256, (4, 98), dtype=np.uint8) for split in SPLITS}
    np.savez(path / "mnist.npz", **images)  # type: ignore[arg-type]
    np.savez(path / "bits.npz", train=generator.integers(0, 2, (20, 3)))
    return {
        "digits": Digits(),
        "moons": Moons(20, 20, 20),
        "pinwheel": Pinwheel(20, 20, 20),
        "sprites": Sprites(20, 20, 20),
        "static-mnist": StaticMNIST(path / "mnist.npz"),
        "gaussian": saved(path, train=normal(20)),
        "bernoulli": Arrays(path / "bits.npz", "bernoulli"),  # type: ignore[arg-type]
    }


NAMES = ("digits", "moons", "pinwheel", "sprites", "static-mnist", "gaussian", "bernoulli")


def log_joint(data: Dataset) -> Tensor:
    experiment = Experiment(latent=2, encoder=MLP((4,)), decoder=MLP((4,)))
    model, guide = experiment.build(data)
    z = guide.posterior(data.train).mean
    return model.decode(z).log_prob(data.train)


@pytest.mark.parametrize("name", NAMES)
def test_data_and_networks_agree_under_float64(tmp_path: Path, name: str) -> None:
    spec = specs(tmp_path)[name]
    single = spec.load(0)
    torch.set_default_dtype(torch.float64)
    try:
        double = spec.load(0)
        found = log_joint(double)
        default_autoregressive_likelihood(double.likelihood).build(double.likelihood, double.train)
        with pytest.raises(FlowvaeError, match=r"train: torch\.float32, but .*torch\.float64"):
            log_joint(single)
        with pytest.raises(FlowvaeError, match=r"train: torch\.float32, but .*torch\.float64"):
            default_autoregressive_likelihood(single.likelihood).build(single.likelihood, single.train)
    finally:
        torch.set_default_dtype(torch.float32)
    assert double.train.dtype == found.dtype == torch.float64
    torch.testing.assert_close(double.train.float(), single.train)  # the same data by the same seed
    assert double.identity.sha256 != single.identity.sha256
    with pytest.raises(FlowvaeError, match=r"train: torch\.float64, but .*torch\.float32"):
        log_joint(double)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_halves_are_refused(tmp_path: Path, name: str, kind: torch.dtype) -> None:
    spec = specs(tmp_path)[name]
    torch.set_default_dtype(kind)
    try:
        with pytest.raises(FlowvaeError, match="float32"):
            spec.load(0)
    finally:
        torch.set_default_dtype(torch.float32)


def test_under_float64_large_offsets_stay(tmp_path: Path) -> None:
    x = normal(20) + 1e8
    torch.set_default_dtype(torch.float64)
    try:
        data = saved(tmp_path, train=x).load(0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert data.offset is None
    assert sorted(torch.cat((data.train, data.valid, data.test))[:, 0].tolist()) == sorted(x[:, 0])
