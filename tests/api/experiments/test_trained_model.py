"""What a trained model says of a user's data agrees with closed forms, in the kind and the units of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import disturb
from scipy.special import log_softmax
from scipy.stats import multivariate_normal
from torch import Tensor, nn
from trained_cases import CLASSES, COVARIANCE, FREQUENCIES, GAIN, PRECISION, M, W, data, exact
from training_cases import Rows

from flowvae import IAF, MAF, Condition, FlowGuide, FlowvaeError, Mixture
from flowvae.experiments.trained_model import TrainedModel

X = data()
LABELS = np.array([0, 1, 1, 2, 0])


def density(x: Any, c: np.ndarray | None = None) -> Any:
    """The exact log p(x), or log p(x | c)."""
    shift = 0.0 if c is None else M.T[c]
    return multivariate_normal(np.zeros(3), COVARIANCE).logpdf(x - shift)


def test_codes_are_posterior_means_and_draws() -> None:
    model = exact()
    np.testing.assert_allclose(model.encode(X), X @ GAIN.T, atol=1e-5)
    drawn = model.encode(X, draws=20000)
    assert drawn.shape == (20000, 5, 2)
    np.testing.assert_allclose(drawn.mean(0), X @ GAIN.T, atol=0.02)
    np.testing.assert_allclose(np.cov(drawn[:, 0].T), np.linalg.inv(PRECISION), atol=0.02)
    assert np.array_equal(model.encode(X, draws=3), model.encode(X, draws=3))
    assert not np.array_equal(model.encode(X, draws=3), model.encode(X, draws=3, seed=1))


def test_reconstructions_decode_the_posterior_mean() -> None:
    np.testing.assert_allclose(exact().reconstruct(X), X @ GAIN.T @ W.T, atol=1e-5)
    shift = M.T[LABELS]
    np.testing.assert_allclose(
        exact(conditional=True).reconstruct(X, LABELS), (X - shift) @ GAIN.T @ W.T + shift, atol=1e-5
    )


def test_log_prob_is_exact_under_the_exact_posterior() -> None:
    # all weights are p(x) then: one draw is enough
    np.testing.assert_allclose(exact().log_prob(X, draws=1), density(X), atol=1e-4)
    found = exact(conditional=True).log_prob(X, LABELS, draws=2)
    np.testing.assert_allclose(found, density(X, LABELS), atol=1e-4)
    assert found.dtype == np.float64


def test_log_prob_is_that_of_the_evaluation() -> None:
    from flowvae.evaluation import measure_likelihoods

    model = exact(guide=FlowGuide(IAF(1, (8,))))
    x = torch.as_tensor(data(100), dtype=torch.float32)
    expected = measure_likelihoods(*model.pair, x, 50, seed=3).log_evidence
    torch.testing.assert_close(model.log_prob(x, draws=50, seed=3), expected.double(), rtol=0, atol=1e-12)


def test_classes_follow_from_bayes_rule() -> None:
    model = exact(conditional=True)
    with np.errstate(divide="ignore"):
        prior = np.log(np.array(FREQUENCIES) / sum(FREQUENCIES))
    expected = log_softmax(np.stack([density(X, np.full(5, k)) for k in range(3)], 1) + prior, axis=1)
    found = model.classify(X, draws=1)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.isneginf(found[:, 2]).all()  # a class without training data
    np.testing.assert_allclose(np.exp(found).sum(1), 1)


def test_every_form_of_a_condition_is_the_same() -> None:
    model = exact(conditional=True)
    expected = model.encode(X, LABELS)
    names = np.array(CLASSES)[LABELS]
    for c in (names, list(names), LABELS.tolist(), torch.as_tensor(LABELS), LABELS.astype(float), np.eye(3)[LABELS]):
        assert np.array_equal(model.encode(X, c), expected)
    assert np.array_equal(model.encode(X, "dog"), model.encode(X, np.ones(5, int)))
    assert np.array_equal(model.encode(X, 1), model.encode(X, "dog"))


def test_codes_are_decoded() -> None:
    model, z = exact(), data(6).reshape(9, 2)
    np.testing.assert_allclose(model.decode(z), z @ W.T, atol=1e-5)
    np.testing.assert_allclose(model.decode(model.encode(X)), model.reconstruct(X), atol=1e-6)
    drawn = model.encode(X, draws=3)
    found = model.decode(torch.as_tensor(drawn))
    assert found.shape == (3, 5, 3)
    np.testing.assert_allclose(found, drawn @ W.T, atol=1e-5)
    noisy = model.decode(np.zeros((20000, 2)), of="draws")
    np.testing.assert_allclose(np.cov(noisy.T), COVARIANCE - W @ W.T, atol=0.02)
    assert np.array_equal(model.decode(z, of="draws"), model.decode(z, of="draws"))
    assert not np.array_equal(model.decode(z, of="draws"), model.decode(z, of="draws", seed=1))
    conditional = exact(conditional=True)
    shifted = drawn @ W.T + M.T[LABELS]
    np.testing.assert_allclose(conditional.decode(drawn, LABELS), shifted, atol=1e-5)


def test_samples_have_the_moments_of_the_model() -> None:
    model = exact()
    means, draws = model.sample(20000), model.sample(20000, of="draws")
    np.testing.assert_allclose(np.cov(means.T), W @ W.T, atol=0.05)
    np.testing.assert_allclose(np.cov(draws.T), COVARIANCE, atol=0.05)
    assert torch.equal(means, model.sample(20000))
    assert not torch.equal(means, model.sample(20000, seed=1))
    conditional = exact(conditional=True)
    for c in (2, "emu"):
        np.testing.assert_allclose(conditional.sample(5000, c).mean(0), M[:, 2], atol=0.06)
    assert conditional.sample(c=LABELS).shape == (5, 3)
    assert isinstance(conditional.sample(c=LABELS), np.ndarray)


def test_ways_are_straight_in_the_base_of_a_flow_prior() -> None:
    a, b = X[:2], X[2:4]
    straight = exact()
    ends = straight.reconstruct(a), straight.reconstruct(b)
    expected = np.linspace(*ends, 5)
    np.testing.assert_allclose(straight.interpolate(a, b, 5), expected, atol=1e-5)
    np.testing.assert_allclose(exact(prior=Mixture(2)).interpolate(a, b, 5), expected, atol=1e-5)
    bent = exact(prior=MAF(2, (8,)))
    disturb(bent.pair.model.prior, 0.5)
    found = bent.interpolate(a, b, 5)
    np.testing.assert_allclose(found[[0, -1]], np.stack(ends), atol=1e-6)
    codes = torch.as_tensor(found @ np.linalg.pinv(W).T, dtype=torch.float32)  # W z has no noise
    with torch.no_grad():
        base = bent.pair.model.prior().transform(codes).numpy()
    np.testing.assert_allclose(base, np.linspace(base[0], base[-1], 5), atol=1e-4)
    assert np.abs(found - expected).max() > 1e-3


def test_a_conditional_flow_prior_has_a_way_for_each_condition() -> None:
    model = exact(conditional=True, prior=MAF(1, (8,)), condition=Condition(guide=False))
    disturb(model.pair.model.prior, 0.5)
    together = model.interpolate(X[:2], X[2:4], 4, c=[0, 1])
    for row, label in enumerate((0, 1)):
        alone = model.interpolate(X[row : row + 1], X[row + 2 : row + 3], 4, c=[label])
        np.testing.assert_allclose(together[:, row], alone[:, 0], atol=1e-5)
    assert not np.allclose(together, model.interpolate(X[:2], X[2:4], 4, c=[1, 0]), atol=1e-2)


def test_data_come_in_original_units_and_leave_in_them() -> None:
    offset = np.array([1.7e9, 0.0, -1.7e9])
    moved, plain = exact(offset=1.7e9), exact()
    exactly = np.round(X * 64) / 64  # so that a sum with the offset is exact
    np.testing.assert_array_equal(moved.encode(exactly + offset), plain.encode(exactly))
    np.testing.assert_array_equal(moved.log_prob(exactly + offset, draws=5), plain.log_prob(exactly, draws=5))
    back = moved.reconstruct(exactly + offset)
    assert back.dtype == np.float64
    np.testing.assert_allclose(back - offset, plain.reconstruct(exactly), atol=1e-6)
    np.testing.assert_allclose(moved.sample(4).numpy() - offset, plain.sample(4), atol=1e-6)
    whole = np.array([[1_700_000_001, 2, -1_700_000_002]])
    np.testing.assert_array_equal(moved.encode(whole), plain.encode(np.array([[1.0, 2.0, -2.0]])))
    assert torch.equal(moved.encode(torch.as_tensor(whole)), torch.as_tensor(moved.encode(whole)))
    for rounded in ((exactly + offset).astype(np.float32), torch.as_tensor(exactly + offset).float()):
        with pytest.raises(FlowvaeError, match="float32"):
            moved.encode(rounded)


QUESTIONS: dict[str, Callable[[TrainedModel, Any], Any]] = {
    "encode": lambda model, x: model.encode(x),
    "draws": lambda model, x: model.encode(x, draws=2),
    "reconstruct": lambda model, x: model.reconstruct(x),
    "log_prob": lambda model, x: model.log_prob(x, draws=3),
    "interpolate": lambda model, x: model.interpolate(x, x, 3),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_arrays_and_tensors_give_their_own_kind_without_gradients(name: str) -> None:
    model, ask = exact(), QUESTIONS[name]
    array = ask(model, X)
    assert isinstance(array, np.ndarray)
    assert array.dtype == (np.float64 if name == "log_prob" else np.float32)
    for x in (X.astype(np.float32), X[::-1][::-1], torch.as_tensor(X), torch.as_tensor(X).requires_grad_()):
        found = ask(model, x)
        assert type(found) is (Tensor if isinstance(x, Tensor) else np.ndarray)
        if isinstance(found, Tensor):
            assert not found.requires_grad
            found = found.numpy()
        assert np.array_equal(found, array)


@pytest.mark.parametrize("name", QUESTIONS)
def test_blocks_and_files_change_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ask, many = exact(), QUESTIONS[name], data(600)
    np.save(tmp_path / "x.npy", many)
    whole = ask(model, many)
    assert np.array_equal(ask(model, np.load(tmp_path / "x.npy", mmap_mode="r")), whole)
    source = ask(model, Rows(torch.as_tensor(many, dtype=torch.float32)))
    assert np.array_equal(source.numpy(), whole)
    if name == "draws":  # which belong to a block
        return
    monkeypatch.setattr("flowvae.experiments.trained_model.BLOCK", 7)
    np.testing.assert_allclose(ask(model, many), whole, atol=1e-5)


class Noisy(nn.Module):
    """Dropout on the way through."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x[..., :3] if x.shape[-1] == 3 else torch.cat((x, x[..., :1]), -1))


def test_layers_are_in_evaluation_mode_and_left_as_they_were() -> None:
    model = exact(encoder=Noisy(), decoder=Noisy())
    torch.manual_seed(0)
    before = torch.rand(3)
    torch.manual_seed(0)
    for ask in (*QUESTIONS.values(), lambda model, x: model.sample(5)):
        model.pair.model.train()
        model.pair.guide.train()
        one = ask(model, X)
        assert all(module.training for part in model.pair for module in part.modules())
        model.pair.model.eval()
        model.pair.guide.eval()
        assert np.array_equal(one, ask(model, X))
    assert torch.equal(torch.rand(3), before)  # and nobody else's random numbers are used


def test_a_flow_guide_gives_the_mean_of_its_draws() -> None:
    model = exact(guide=FlowGuide(IAF(1, (8,))))
    found, draws = model.encode(X), model.encode(X, draws=20000)
    error = draws.std(0) / np.sqrt(128)
    assert (np.abs(found - draws.mean(0)) < 5 * error).all()


def test_codes_have_the_shape_that_the_experiment_gives_them() -> None:
    class Flat(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return z.flatten(-2)[..., :3]

    model = exact(latent=(2, 2), decoder=Flat(), guide=FlowGuide(IAF(1, (8,))))
    assert model.encode(X).shape == (5, 2, 2)
    assert model.encode(X, draws=3).shape == (3, 5, 2, 2)
    assert model.decode(np.zeros((6, 2, 2))).shape == (6, 3)
    assert model.sample(4).shape == model.interpolate(X[:4], X[1:], 2)[0].shape == (4, 3)


BAD: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "one data point": (lambda: exact().encode(X[0]), ("(3,)", "x[None]")),
    "too few columns": (lambda: exact().log_prob(X[:, :2]), ("(5, 2)", "(N, 3)")),
    "a list": (lambda: exact().encode([1.0, 2.0]), ("[1.0, 2.0]", "(N, 3)")),
    "one code": (lambda: exact().decode(np.zeros(2)), ("(2,)", "(N, 2)")),
    "wide codes": (lambda: exact().decode(np.zeros((4, 3))), ("(4, 3)", "(N, 2)")),
    "no codes": (lambda: exact().decode(np.zeros((0, 2))), ("(0, 2)",)),
    "codes in a list": (lambda: exact().decode([[0.0, 1.0]]), ("[[0.0, 1.0]]", "(N, 2)")),
    "codes without values": (lambda: exact().decode(torch.ones(2, 2, device="meta")), ("(2, 2)",)),
    "NaN code": (lambda: exact().decode(np.array([[0.0, np.nan]])), ("nan",)),
    "large code": (lambda: exact().decode(np.array([[0.0, 1e300]])), ("inf", "float32")),
    "complex codes": (lambda: exact().decode(np.zeros((2, 2), complex)), ("complex128",)),
    "decode of": (lambda: exact().decode(np.zeros((2, 2)), of="mean"), ("'mean'", "means")),
    "decode needs one": (lambda: exact(conditional=True).decode(np.zeros((2, 2))), ("c = None",)),
    "complex": (lambda: exact().encode(X.astype(complex)), ("complex128",)),
    "text": (lambda: exact().encode(X.astype(str)), ("<U",)),
    "masked": (lambda: exact().encode(np.ma.masked_less(X, 0)), ("MaskedArray",)),
    "nothing": (lambda: exact().encode(X[:0]), ("(0, 3)",)),
    "NaN": (lambda: exact().encode(np.where(X[2, 1] == X, np.nan, X)), ("nan", "row 2")),
    "too large": (lambda: exact().encode(X * 1e300), ("inf",)),
    "no draws": (lambda: exact().encode(X, draws=0), ("draws = 0",)),
    "many draws": (lambda: exact().encode(X, draws=10**15), ("draws = 1000000000000000", "memory")),
    "no draws of weights": (lambda: exact().log_prob(X, draws=0), ("draws = 0",)),
    "one step": (lambda: exact().interpolate(X, X, 1), ("steps = 1",)),
    "pairs": (lambda: exact().interpolate(X, X[1:]), ("5", "4")),
    "no number": (lambda: exact().sample(), ("sample(n)",)),
    "none": (lambda: exact().sample(0), ("n = 0",)),
    "of": (lambda: exact().sample(3, of="mean"), ("'mean'", "means")),
    "too many": (lambda: exact().sample(10**15), ("n = 1000000000000000", "memory")),
    "no condition": (lambda: exact().encode(X, 1), ("c = 1",)),
    "no classes": (lambda: exact().classify(X), ("condition",)),
    "needs one": (lambda: exact(conditional=True).encode(X), ("c = None",)),
    "needs one to sample": (lambda: exact(conditional=True).sample(2), ("c = None",)),
    "unknown class": (lambda: exact(conditional=True).sample(2, "dgo"), ("'dgo'", "dog")),
    "another label": (lambda: exact(conditional=True).encode(X, [0, 1, 2, 3, 0]), ("3", "2")),
    "half a label": (lambda: exact(conditional=True).encode(X, LABELS + 0.5), ("0.5",)),
    "NaN label": (lambda: exact(conditional=True).encode(X, LABELS + np.nan), ("nan",)),
    "few labels": (lambda: exact(conditional=True).encode(X, [0, 1]), ("2", "5")),
    "not one-hot": (lambda: exact(conditional=True).encode(X, np.full((5, 3), 1 / 3)), ("one-hot",)),
    "wide": (lambda: exact(conditional=True).encode(X, np.eye(5)), ("(5, 5)", "(N, 3)")),
    "one label": (lambda: exact(conditional=True).sample(c="cat"), ("'cat'",)),
    "uneven": (lambda: exact(conditional=True).sample(c=[[1, 2], [3]]), ("[[1, 2], [3]]",)),
    "no labels": (lambda: exact(conditional=True).sample(c=LABELS[:0]), ("(0,)",)),
    "labels without values": (lambda: exact(conditional=True).sample(c=torch.ones(2, device="meta")), ("(2,)",)),
    "data without values": (lambda: exact().encode(torch.ones(2, 3, device="meta")), ("(2, 3)",)),
    "sparse": (lambda: exact().encode(torch.eye(3).to_sparse()), ("(3, 3)",)),
    "many steps": (lambda: exact().interpolate(X, X, 10**13), ("steps = 10000000000000", "memory")),
    "counts": (lambda: exact(conditional=True).sample(4, LABELS), ("5", "4")),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_named_in_one_line(case: str) -> None:
    ask, parts = BAD[case]
    with pytest.raises(FlowvaeError) as info:
        ask()
    text = str(info.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_covariates_that_the_type_of_the_model_cannot_hold_are_refused() -> None:
    labels = exact(conditional=True)
    covariates = replace(labels.experiment, condition=Condition("covariates", prior=False))
    model = replace(labels, experiment=covariates)
    assert np.isfinite(model.sample(c=np.ones((2, 3)))).all()
    with pytest.raises(FlowvaeError, match=r"1e\+300.*float32"):
        model.sample(c=np.full((2, 3), 1e300))


def test_values_outside_the_support_are_refused() -> None:
    model = exact()
    bits = TrainedModel(model.experiment, replace(model.signature, likelihood="bernoulli"), model.pair)
    with pytest.raises(FlowvaeError, match=r"0\.5.*row 1"):
        bits.encode(np.array([[0.0, 1, 1], [1, 0.5, 0]]))


def test_the_guide_may_need_no_condition() -> None:
    model = exact(conditional=True, encoder=Noisy(), condition=Condition(prior=False, encoder=False, guide=False))
    assert np.array_equal(model.encode(X), model.encode(X, LABELS))
    with pytest.raises(FlowvaeError, match="c = None"):
        model.reconstruct(X)
