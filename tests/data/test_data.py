"""Data sets: their splits, the errors of a user's own files, and the exact evidence of the pinwheel."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.data import (
    Arrays,
    BernoulliLikelihood,
    BinomialLikelihood,
    Dataset,
    Digits,
    GaussianLikelihood,
    Moons,
    Pinwheel,
    Sprites,
    parse_likelihood,
)
from flowvae.data.dataset import check_values
from flowvae.data.likelihoods import LARGEST_TOTAL
from flowvae.data.simulated.pinwheel import ARMS, NOISE, OBSERVED, RADIAL, TANGENTIAL, decode, rotate


def rows(x: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}


def test_digits_are_all_the_digits_once() -> None:
    data = Digits().load(0)
    together = torch.cat((data.train, data.valid, data.test))
    original = torch.tensor(load_digits().data, dtype=torch.float32)
    assert torch.equal(together.sort(0).values, original.sort(0).values)
    assert [len(part) for part in (data.train, data.valid, data.test)] == [1257, 270, 270]
    assert data.labels is not None
    counts = torch.bincount(data.labels["test"])
    assert counts.min() >= 25  # stratified: 27 of each, give or take
    assert counts.max() <= 29


def test_the_seed_moves_valid_and_never_test() -> None:
    one, other, again = Digits().load(0), Digits().load(1), Digits().load(0)
    assert torch.equal(one.test, other.test)
    assert not torch.equal(one.valid, other.valid)
    assert torch.equal(one.train, again.train)
    assert one.identity == again.identity
    assert one.identity.sha256 != other.identity.sha256
    assert not rows(one.test) & (rows(other.train) | rows(other.valid)) - rows(one.train)


def save(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_arrays_are_read_as_they_are(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    parts = {name: generator.integers(0, 2, (n, 4, 5)) for name, n in (("train", 9), ("valid", 3), ("test", 2))}
    data = Arrays(save(tmp_path / "mine.npz", **parts), BernoulliLikelihood()).load(0)
    for name, value in parts.items():
        assert torch.equal(getattr(data, name), torch.tensor(value.reshape(len(value), 20)).float())
    assert data.image_shape == (4, 5)
    assert data.identity.split.startswith("as in the file")


def test_missing_splits_are_drawn_from_train_with_their_labels(tmp_path: Path) -> None:
    x = np.arange(40.0).reshape(20, 2)
    path = save(tmp_path / "mine.npz", train=x, labels=np.arange(20))
    data = Arrays(path, GaussianLikelihood()).load(3)
    assert sorted(torch.cat((data.train, data.valid, data.test))[:, 0].tolist()) == x[:, 0].tolist()
    assert (len(data.train), len(data.valid), len(data.test)) == (14, 3, 3)
    assert data.labels is not None
    for name in ("train", "valid", "test"):
        assert torch.equal(getattr(data, name)[:, 0], 2 * data.labels[name].float())
    np.save(tmp_path / "mine.npy", x)
    assert Arrays(tmp_path / "mine.npy", GaussianLikelihood()).load(3).features == 2


def wrong_files() -> list[object]:
    good = np.zeros((20, 3))
    nan, negative, fraction = good.copy(), good.copy(), good.copy()
    nan[4, 1], negative[7, 2], fraction[3, 0] = np.nan, -1, 0.5
    return [
        pytest.param({"train": nan}, GaussianLikelihood(), "train: value nan at row", id="nan"),
        pytest.param(
            {"train": good, "valid": good, "test": nan}, GaussianLikelihood(), "test: .*row 4, column 1", id="where"
        ),
        pytest.param(
            {"train": good, "valid": negative, "test": good}, BinomialLikelihood(4), "row 7, column 2", id="support"
        ),
        pytest.param({"train": good, "valid": fraction, "test": good}, BernoulliLikelihood(), "0 or 1", id="fraction"),
        pytest.param({"train": good, "valid": good[:0]}, BernoulliLikelihood(), "valid: empty", id="empty"),
        pytest.param(
            {"train": good, "valid": good[:, :2]}, BernoulliLikelihood(), "different numbers of columns", id="width"
        ),
        pytest.param({"train": good[:, 0]}, BernoulliLikelihood(), r"shape \(20,\)", id="shape"),
        pytest.param({"train": good[:2]}, BernoulliLikelihood(), "2 rows: too few", id="few"),
        pytest.param(
            {"train": good[:3]}, GaussianLikelihood(), "3 rows: too few", id="one-is-left"
        ),  # 1 of 3: no spread
        pytest.param({"x": good}, BernoulliLikelihood(), "array 'x'", id="name"),
        pytest.param({"valid": good}, BernoulliLikelihood(), "no array 'train'", id="no-train"),
        pytest.param({"train": good.astype("U3")}, BernoulliLikelihood(), "must be real numbers", id="text"),
        pytest.param({"train": good, "labels": np.zeros(3)}, BernoulliLikelihood(), "one a row", id="labels"),
        pytest.param(
            {"train": good, "labels": np.full(20, "cat")}, BernoulliLikelihood(), "labels: .*numbers", id="names"
        ),
    ]


@pytest.mark.parametrize(("arrays", "likelihood", "message"), wrong_files())
def test_wrong_data_are_refused(
    tmp_path: Path, arrays: dict[str, object], likelihood: GaussianLikelihood, message: str
) -> None:
    path = save(tmp_path / "mine.npz", **arrays)
    with pytest.raises(FlowvaeError, match=message):
        Arrays(path, likelihood).load(0)


@pytest.mark.parametrize(
    ("values", "likelihood", "remedy"),
    [
        ([0.0, 255.0], BernoulliLikelihood(), "divide by 255"),
        ([0.0, 7.0, 12.0], BernoulliLikelihood(), "binomial:TOTAL, with a TOTAL of 12"),
        ([0.0, 7.0, 30.0], BinomialLikelihood(16), "TOTAL of 30"),
        ([0.0, 0.4, 1.0], BernoulliLikelihood(), "a threshold"),
        ([-0.5, 0.4, 1.0], BinomialLikelihood(16), "are gaussian"),
        ([-1.0, 0.0, 3.0], BinomialLikelihood(16), "are gaussian"),
        ([0.0, float("nan"), 3.0], GaussianLikelihood(), "these rows out"),
    ],
)
def test_the_remedy_is_for_the_data_at_hand(values: list[float], likelihood: GaussianLikelihood, remedy: str) -> None:
    with pytest.raises(FlowvaeError, match=remedy):
        check_values("mine", torch.tensor(values)[:, None], likelihood)


def test_a_gaussian_takes_no_units_from_one_row() -> None:
    with pytest.raises(FlowvaeError, match="1 row"):
        GaussianLikelihood().build(torch.zeros(1, 3))


def test_the_place_that_is_named_is_that_in_the_file(tmp_path: Path) -> None:
    x = np.zeros((100, 5))
    x[17, 2] = np.nan
    path = save(tmp_path / "mine.npz", train=x)
    for seed in range(3):  # whatever the split that the row would fall into
        with pytest.raises(FlowvaeError, match="train: value nan at row 17, column 2"):
            Arrays(path, GaussianLikelihood()).load(seed)


@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04 broken"])
def test_unreadable_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    with pytest.raises(FlowvaeError, match="not a readable"):
        Arrays(path, BernoulliLikelihood()).load(0)
    with pytest.raises(FlowvaeError, match="no such file"):
        Arrays(tmp_path / "other.npz", BernoulliLikelihood()).load(0)


def test_pickled_arrays_are_not_opened(tmp_path: Path) -> None:
    path = save(tmp_path / "mine.npz", train=np.array([{"a": 1}], dtype=object))
    with pytest.raises(FlowvaeError, match="plain numbers") as refused:
        Arrays(path, BernoulliLikelihood()).load(0)
    assert "allow_pickle" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["bernoulli", "binomial:16", "gaussian", "gaussian:0.1", "gaussian:0.123456789", "gaussian:shared"]
)
def test_likelihoods_have_a_text_form(text: str) -> None:
    assert str(parse_likelihood(text)) == text


@pytest.mark.parametrize("text", ["bernouli", "binomial", "binomial:x", "binomial:0", "gaussian:-1", "bernoulli:2"])
def test_wrong_likelihoods_are_refused(text: str) -> None:
    with pytest.raises(FlowvaeError):
        parse_likelihood(text)


@pytest.mark.parametrize("total", [LARGEST_TOTAL + 1, 10**9, 10**18])
def test_counts_that_float32_cannot_score_are_refused(total: int) -> None:
    with pytest.raises(FlowvaeError, match=rf"total = {str(total)[:5]}.*65536.*bytes.*nats"):
        BinomialLikelihood(total)


def test_the_largest_counts_are_scored_to_a_hundredth_of_a_nat() -> None:
    counts = np.arange(0, LARGEST_TOTAL + 1, 64)
    likelihood = BinomialLikelihood(LARGEST_TOTAL).build(torch.zeros(2, 1))
    found = likelihood(torch.full((len(counts), 1), 0.3)).log_prob(torch.tensor(counts).float()[:, None])
    expected = scipy.stats.binom.logpmf(counts, LARGEST_TOTAL, 1 / (1 + math.exp(-0.3)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=0.01)


@pytest.mark.parametrize("total", [1, 16, 255])
def test_binomial_likelihood_agrees_with_scipy_for_every_count(total: int) -> None:
    counts = torch.arange(total + 1, dtype=torch.float64)
    logits = torch.tensor([-60.0, -3.0, 0.0, 0.5, 40.0], dtype=torch.float64).unsqueeze(-1)
    torch.set_default_dtype(torch.float64)
    try:
        likelihood = BinomialLikelihood(total).build(counts.unsqueeze(-1))
    finally:
        torch.set_default_dtype(torch.float32)
    of_counts = likelihood(logits.expand(5, total + 1).unsqueeze(-1)).log_prob(counts.unsqueeze(-1))
    # SciPy takes the probability of a success or of a failure, whichever is small enough to be exact
    success, failure = logits.sigmoid().numpy(), (-logits).sigmoid().numpy()
    expected = np.where(
        logits.numpy() < 0,
        scipy.stats.binom.logpmf(counts.numpy(), total, success),
        scipy.stats.binom.logpmf(total - counts.numpy(), total, failure),
    )
    np.testing.assert_allclose(of_counts.numpy(), expected, rtol=1e-11, atol=1e-11)


def test_binomial_likelihood_spreads_over_a_plate_and_has_a_mean() -> None:
    likelihood = BinomialLikelihood(16).build(torch.zeros(1, 3))
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    spread = likelihood(logits).expand((2, 5))
    x = torch.tensor([0.0, 7.0, 16.0])
    assert spread.log_prob(x).shape == (2, 5)
    torch.testing.assert_close(spread.log_prob(x)[1], likelihood(logits).log_prob(x))
    torch.testing.assert_close(spread.mean[0], likelihood.mean(logits))


def test_gaussian_likelihood_is_in_the_units_of_the_data() -> None:
    train = torch.randn(500, 3) * torch.tensor([1.0, 100.0, 0.01]) + torch.tensor([0.0, 5.0, -3.0])
    likelihood = GaussianLikelihood(scale=None).build(train)
    outputs = torch.randn(7, 3)
    expected = torch.distributions.Normal(train.mean(0) + train.std(0) * outputs, train.std(0))
    x = torch.randn(7, 3)
    torch.testing.assert_close(likelihood(outputs).log_prob(x), expected.log_prob(x).sum(-1))
    fixed = GaussianLikelihood(scale=0.3).build(train)
    expected = torch.distributions.Normal(train.mean(0) + train.std(0).clamp_min(0.3) * outputs, 0.3)
    torch.testing.assert_close(fixed(outputs).log_prob(x), expected.log_prob(x).sum(-1), rtol=1e-4, atol=1e-4)


def test_pinwheel_evidence_is_what_simple_monte_carlo_finds() -> None:
    """Monte Carlo over the prior with a million draws, for a few data: slow, but it shares no quadrature."""
    spec = Pinwheel(train=10, valid=10, test=10)
    x = spec.load(0).test[:4].double()
    generator = torch.Generator().manual_seed(1)
    count = 1_000_000
    arm = torch.randint(ARMS, (count,), generator=generator)
    along, across = torch.randn(2, count, generator=generator, dtype=torch.float64)
    mean = decode(rotate(RADIAL * along, TANGENTIAL * across, arm))
    constant = -OBSERVED * math.log(NOISE * math.sqrt(2 * math.pi))
    for datum, exact in zip(x, spec.log_evidence(x), strict=True):
        log_likelihood = -0.5 * ((datum - mean) ** 2).sum(-1) / NOISE**2 + constant
        weight = (log_likelihood - log_likelihood.max()).exp()
        estimate = weight.mean().log() + log_likelihood.max()
        error = (weight.std() / weight.mean() / math.sqrt(count)).item()
        assert abs(estimate - exact).item() < 4 * error
        assert error < 0.05


def test_pinwheel_evidence_has_converged() -> None:
    spec = Pinwheel(train=10, valid=10, test=40)
    x = spec.load(0).test
    torch.testing.assert_close(spec.log_evidence(x), spec.log_evidence(x, step=0.125, reach=8.0), rtol=0, atol=1e-6)


def test_pinwheel_test_data_are_the_same_for_every_seed() -> None:
    spec = Pinwheel(train=50, valid=20, test=20)
    assert torch.equal(spec.load(0).test, spec.load(7).test)
    assert not torch.equal(spec.load(0).train, spec.load(7).train)


def test_a_dataset_says_what_it_is() -> None:
    identity = Digits().load(2).identity
    assert identity.name == "digits"
    assert "train 1257, valid 270, test 270" in identity.split
    assert len(identity.sha256) == 16
    assert isinstance(Digits().load(2), Dataset)


def test_data_of_another_type_or_shape_are_refused() -> None:
    digits = Digits().load(0)
    with pytest.raises(FlowvaeError, match=r"valid: torch\.float64; all splits must be of one floating-point type"):
        replace(digits, valid=digits.valid.double())
    with pytest.raises(FlowvaeError, match=r"train: torch\.int64; all splits must be of one floating-point type"):
        replace(digits, train=digits.train.long())
    with pytest.raises(FlowvaeError, match=r"image_shape = \(28, 28\) for 64 columns"):
        replace(digits, image_shape=(28, 28))


def test_a_likelihood_may_be_a_word() -> None:
    digits = Digits().load(0)
    assert replace(digits, likelihood="binomial:16").likelihood == BinomialLikelihood(16)  # type: ignore[arg-type]
    assert replace(digits, image_shape=[np.int64(8), 8]).image_shape == (8, 8)  # type: ignore[arg-type]


X = torch.arange(24.0).reshape(6, 4)
WRONG: list[tuple[str, object, str]] = [
    ("likelihood", "bernoulli", "0 or 1"),
    ("likelihood", "poisson", "'poisson'"),
    ("likelihood", GaussianLikelihood, "likelihood = <class"),
    ("likelihood", None, "likelihood = None"),
    ("train", X.numpy(), "train: <ndarray of shape"),
    ("train", X.tolist(), "train: "),
    ("train", None, "train: None"),
    ("valid", X.to_sparse(), "valid: <Tensor"),
    ("valid", X.to("meta"), "valid: <Tensor"),
    ("train", X.half(), r"train: torch\.float16"),
    ("name", None, "name = None"),
    ("name", "two\nlines", "one line"),
    ("preprocessing", 3, "preprocessing = 3"),
    ("split", b"s", "split = b's'"),
    ("labels", [1] * 6, "labels = "),
    ("labels", {"train": [1] * 6}, r"labels of train: \[1"),
    ("labels", {"train": torch.zeros(5)}, r"labels of train: .*\(6,\)"),
    ("labels", {"test": torch.zeros(6, 1)}, r"labels of test: .*\(6,\)"),
    ("labels", {"train": torch.full((6,), math.nan)}, "labels of train: .*finite"),
    ("labels", {"tests": torch.zeros(6)}, "labels = .*tests"),
    ("factors", {"train": torch.zeros(6)}, "factors of train"),
    ("image_shape", 4, "image_shape = 4"),
    ("image_shape", (), r"image_shape = \(\)"),
    ("image_shape", (2, 2, 1), r"\(2, 2, 1\)"),
    ("image_shape", (2.0, 2.0), r"\(2\.0, 2\.0\)"),
    ("image_shape", (-2, -2), r"\(-2, -2\)"),
    ("log_evidence", 3.0, r"log_evidence = 3\.0"),
    ("offset", torch.zeros(4), "offset = .*float64"),
    ("offset", torch.zeros(3, dtype=torch.float64), "offset = .*4 finite"),
]


@pytest.mark.parametrize(("name", "value", "said"), WRONG, ids=lambda value: str(value)[:20])
def test_a_part_of_another_type_is_refused_in_one_line(name: str, value: object, said: str) -> None:
    right = Dataset(X, X, X, GaussianLikelihood(), "n", "p", "s")
    with pytest.raises(FlowvaeError, match=said) as refused:
        replace(right, **{name: value})  # type: ignore[arg-type]
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("spec", [Sprites, Moons, Pinwheel])
def test_sizes_may_be_numpy_s_and_must_fit_into_memory(spec: type[Sprites | Moons | Pinwheel]) -> None:
    few = spec(train=np.int64(5), valid=np.int32(4), test=np.uint8(3))  # type: ignore[arg-type]
    assert [type(few.train), type(few.valid), type(few.test)] == [int, int, int]
    assert len(few.load(0).train) == 5
    with pytest.raises(FlowvaeError, match="B of memory"):
        spec(train=10**13).load(0)


def test_settings_of_likelihoods_may_be_numpy_s() -> None:
    assert str(BinomialLikelihood(np.int64(8))) == "binomial:8"  # type: ignore[arg-type]
    assert str(GaussianLikelihood(np.float32(0.5))) == "gaussian:0.5"  # type: ignore[arg-type]
    assert type(Sprites(side=np.int64(16)).side) is int  # type: ignore[arg-type]
    with pytest.raises(FlowvaeError, match=r"side = 16\.0"):
        Sprites(side=16.0)  # type: ignore[arg-type]
