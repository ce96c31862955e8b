"""The classifier whose features generated data are compared in, and the cache that keeps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Size, Tensor, nn

from flowvae import FlowvaeError
from flowvae.data import Dataset, Digits, Sprites
from flowvae.evaluation.samples import features as features_module
from flowvae.evaluation.samples.features import (
    Classifier,
    Features,
    cache_directory,
    load_features,
    train_features,
    whiten,
)
from flowvae.models import GaussianLikelihood

SMALL = Classifier(features=4, channels=2, epochs=6, batch=32, rate=0.01)


def pictures(seed: int = 0, labels: tuple[str, ...] = ("train", "valid", "test")) -> Dataset:
    """8×8 images whose left or right half is bright."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        side = torch.randint(2, (count,), generator=generator)
        x = torch.randn(count, 8, 8, generator=generator)
        x[:, :, :4] += 2.0 * side[:, None, None]
        x[:, :, 4:] += 2.0 * (1 - side)[:, None, None]
        return x[:, None], side

    parts = {split: draw(count) for split, count in (("train", 200), ("valid", 60), ("test", 60))}
    return Dataset(
        *(x for x, _ in parts.values()),
        likelihood=GaussianLikelihood(),
        name="halves",
        preprocessing="none",
        split="simulated",
        labels={split: parts[split][1] for split in labels} or None,
    )


def refuse(*_: object) -> Features:
    raise AssertionError("trained again")


def test_it_learns_the_classes_and_says_how_well() -> None:
    data = pictures()
    features = train_features(data, SMALL)
    assert features.facts["accuracy"] > 0.95
    assert features.facts["accuracy_on"] == "test, 60 data"
    assert features.facts["trained_on"] == data.identity.sha256
    assert features.of(data.test).shape == (60, 4)
    assert features.of(data.test).dtype == torch.float64


def test_labels_that_say_nothing_are_not_learnt() -> None:
    data = pictures()
    assert data.labels
    mixed = {
        split: y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))] for split, y in data.labels.items()
    }
    assert train_features(replace(data, labels=mixed), SMALL).facts["accuracy"] < 0.75


def test_three_epochs_tell_digits_apart() -> None:
    features = train_features(Digits().load(0), Classifier(epochs=3))
    assert features.facts["accuracy"] > 0.75
    assert features.facts["epochs"] == 3


def test_features_are_in_units_of_their_spread_over_train() -> None:
    data = pictures()
    for features in (train_features(data, SMALL), whiten(data)):
        values = features.of(data.train)
        assert values.mean(0).abs().max() < 1e-4
        assert values.std(0).allclose(torch.ones(()).double(), atol=1e-4)


def test_factors_of_simulated_images_are_predicted_too() -> None:
    data = Sprites(train=300, valid=60, test=60).load(0)
    features = train_features(data, replace(SMALL, epochs=1))
    assert features.facts["predicts"] == "3 classes, 5 factors"
    other = replace(data, factors={split: f.flip(0) for split, f in (data.factors or {}).items()})
    assert not train_features(other, replace(SMALL, epochs=1)).of(data.test).equal(features.of(data.test))


@pytest.mark.parametrize(("side", "last"), [(8, 4), (16, 4), (28, 7)])
@pytest.mark.parametrize("colours", [1, 3])
def test_images_of_other_sizes(side: int, last: int, colours: int) -> None:
    body, head = SMALL.network(Size((colours, side, side)), 3)
    *convolutions, _, linear = body
    assert nn.Sequential(*convolutions)(torch.zeros(5, colours, side, side)).shape[2:] == (last, last)
    assert head(body(torch.zeros(5, colours, side, side))).shape == (5, 3)
    assert linear.out_features == SMALL.features


def test_the_seed_decides() -> None:
    data = pictures()
    quick = replace(SMALL, epochs=1)
    one, again, other = (train_features(data, quick, seed=seed).of(data.test) for seed in (0, 0, 1))
    assert one.equal(again)
    assert not one.allclose(other)


def test_random_numbers_go_on_as_before(tmp_path: Path) -> None:
    data = pictures()
    before = torch.get_rng_state()
    load_features(data, SMALL, cache=tmp_path)
    load_features(data, SMALL, cache=tmp_path)
    whiten(data)
    assert torch.get_rng_state().equal(before)


def test_features_do_not_depend_on_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pictures()
    features = train_features(data, SMALL)
    at_once = features.of(data.train)
    monkeypatch.setattr(features_module, "BLOCK", 17)
    assert features.of(data.train).allclose(at_once, atol=1e-5)


def test_a_classifier_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pictures()
    first = load_features(data, SMALL, cache=tmp_path)
    monkeypatch.setattr(features_module, "train_features", refuse)
    second = load_features(data, SMALL, cache=tmp_path)
    assert second.of(data.test).equal(first.of(data.test))
    assert second.facts == first.facts


def change_data(data: Dataset, settings: Classifier) -> tuple[Dataset, Classifier, int]:
    return replace(data, test=data.test + 1e-3), settings, 0


def change_labels(data: Dataset, settings: Classifier) -> tuple[Dataset, Classifier, int]:
    return replace(data, labels={split: 1 - y for split, y in (data.labels or {}).items()}), settings, 0


def change_settings(data: Dataset, settings: Classifier) -> tuple[Dataset, Classifier, int]:
    return data, replace(settings, rate=0.02), 0


def change_seed(data: Dataset, settings: Classifier) -> tuple[Dataset, Classifier, int]:
    return data, settings, 1


@pytest.mark.parametrize("change", [change_data, change_labels, change_settings, change_seed])
def test_what_it_depends_on_is_not_shared(
    change: Callable[[Dataset, Classifier], tuple[Dataset, Classifier, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quick = replace(SMALL, epochs=1)
    load_features(pictures(), quick, cache=tmp_path)
    data, settings, seed = change(pictures(), quick)
    load_features(data, settings, seed=seed, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(features_module, "train_features", refuse)
    load_features(data, settings, seed=seed, cache=tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "another's"])
def test_a_damaged_file_is_replaced(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, quick = pictures(), replace(SMALL, epochs=1)
    good = load_features(data, quick, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        load_features(data, quick, seed=1, cache=tmp_path / "other")
        (other,) = (tmp_path / "other").iterdir()
        path.write_bytes(other.read_bytes())
    with pytest.warns(UserWarning, match=path.name):
        mended = load_features(data, quick, cache=tmp_path)
    assert mended.of(data.test).equal(good.of(data.test))
    monkeypatch.setattr(features_module, "train_features", refuse)
    assert load_features(data, quick, cache=tmp_path).of(data.test).equal(good.of(data.test))


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("FLOWVAE_CACHE", raising=False)
    assert cache_directory() == tmp_path / "xdg" / "flowvae"
    monkeypatch.setenv("FLOWVAE_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"
    load_features(pictures(), replace(SMALL, epochs=1))
    assert len(list((tmp_path / "own").iterdir())) == 1


def test_a_cache_that_cannot_be_made_is_an_error_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(features_module, "train_features", refuse)
    with pytest.raises(FlowvaeError, match="FLOWVAE_CACHE"):
        load_features(pictures(), SMALL, cache=tmp_path / "file")


def test_data_without_labels_are_whitened(tmp_path: Path) -> None:
    data = pictures(labels=())
    features = load_features(data, SMALL, cache=tmp_path)
    assert "whitened" in features.facts["kind"]
    assert not list(tmp_path.iterdir())
    covariance = torch.cov(features.of(data.train).T)
    assert covariance.allclose(torch.eye(len(covariance)).double(), atol=1e-4)


def test_whitened_components_are_eigenvectors_of_the_covariance() -> None:
    """Far from the origin too, where second moments have lost the digits of the variance."""
    data = pictures(labels=())
    train, valid, test = (x.double() + 1e6 for x in (data.train, data.valid, data.test))
    features = whiten(replace(data, train=train, valid=valid, test=test))
    variances, axes = torch.linalg.eigh(torch.cov(data.train.double().flatten(1).T))
    kept = len(features.scale.center)
    expected = (axes / variances.sqrt()).T.flip(0)[:kept]
    weight = features.network[1].weight  # type: ignore[index]
    assert kept == 32
    torch.testing.assert_close(weight.abs(), expected.abs(), rtol=1e-5, atol=1e-6)


def test_directions_without_variance_are_left_out() -> None:
    data = pictures(labels=())
    flat = torch.zeros(1, 8, 8)
    flat[0, 0, :3] = 1.0
    features = whiten(replace(data, train=data.train * flat + 5.0))
    assert features.facts["dimension"] == 3
    assert features.facts["share_of_variance"] == pytest.approx(1.0)
    with pytest.raises(FlowvaeError, match="all training data are equal"):
        whiten(replace(data, train=torch.ones(20, 1, 8, 8)))


def test_labels_of_train_alone() -> None:
    """A tenth of the training data stops the training and is what the accuracy is of."""
    features = train_features(pictures(labels=("train",)), SMALL)
    assert features.facts["accuracy_on"] == "valid, 20 data"
    assert features.facts["accuracy"] > 0.9


def test_labels_that_are_no_classes() -> None:
    data = pictures()
    assert data.labels
    with pytest.raises(FlowvaeError, match="200 different labels of 200"):
        train_features(replace(data, labels={"train": torch.arange(200)}), SMALL)
    with pytest.raises(FlowvaeError, match="1 different labels"):
        train_features(replace(data, labels={"train": torch.zeros(200)}), SMALL)
    with pytest.raises(FlowvaeError, match=r"whiten\(data\)"):
        train_features(replace(data, labels=None), SMALL)
    with pytest.raises(FlowvaeError, match=r"\(64,\)"):
        train_features(data.flat(), SMALL)


def test_settings_are_checked() -> None:
    with pytest.raises(FlowvaeError, match=r"Classifier\.patience = 0"):
        Classifier(patience=0)
    with pytest.raises(FlowvaeError, match=r"Classifier\.rate"):
        Classifier(rate=-1.0)


def test_a_file_of_an_older_network_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another architecture under the same settings, as after a change of the code."""
    data, quick = pictures(), replace(SMALL, epochs=1)
    load_features(data, quick, cache=tmp_path)
    newer = Classifier.network

    def another(self: Classifier, shape: Size, outputs: int) -> tuple[nn.Sequential, nn.Sequential]:
        body, head = newer(self, shape, outputs)
        body[1] = nn.Tanh()
        return body, head

    monkeypatch.setattr(Classifier, "network", another)
    load_features(data, quick, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_best_epoch_is_kept() -> None:
    """It stops before its last epoch, and features are those of a training that ended two epochs earlier."""
    data, eager = pictures(), replace(SMALL, rate=0.05, patience=2, epochs=40)
    long = train_features(data, eager)
    assert long.facts["epochs"] < 40
    short = train_features(data, replace(eager, epochs=long.facts["epochs"] - 2))
    assert long.of(data.test).equal(short.of(data.test))


def test_colours_are_seen() -> None:
    """Classes that differ in colour alone, with equal sums over the channels."""
    generator = torch.Generator().manual_seed(0)
    side = torch.randint(2, (320,), generator=generator)
    x = torch.randn(320, 3, 8, 8, generator=generator)
    x[:, 0] += side[:, None, None]
    x[:, 1] -= side[:, None, None]
    parts, labels = x.split([200, 60, 60]), side.split([200, 60, 60])
    data = Dataset(
        *parts,
        likelihood=GaussianLikelihood(),
        name="colours",
        preprocessing="none",
        split="simulated",
        labels=dict(zip(("train", "valid", "test"), labels, strict=True)),
    )
    assert train_features(data, SMALL).facts["accuracy"] > 0.95


def test_whitened_features_are_those_of_the_rows() -> None:
    data = pictures(labels=())
    assert whiten(data).of(data.test).equal(whiten(data.flat()).of(data.flat().test))
