"""Exemplar priors: exact leave-one-out against a loop by hand, neighbours, the cache, training."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from prior_cases import SMALL, mass_and_error, pair
from torch import Size, Tensor
from torch.distributions import Normal

from flowvae import (
    IAF,
    Condition,
    Experiment,
    FlowGuide,
    FlowvaeError,
    FullRank,
    SecondStage,
    SemiAmortized,
    Training,
    load,
    train,
)
from flowvae.data import Batch
from flowvae.inference import fit
from flowvae.inference.compile.capture import EagerWarning
from flowvae.models import Exemplar

ALL = 2000  # neighbours, more than there are data
QUICK = {"draws": 5, "figures": False, "progress": False}


def by_hand(means: Tensor, scale: float, z: Tensor, without: Tensor | None = None) -> Tensor:
    """The prior as a loop over codes (B, D), each without the exemplar of its number."""
    found = []
    for i, code in enumerate(z):
        kept = [n for n in range(len(means)) if without is None or n != without[i]]
        log_probs = Normal(means[kept], scale).log_prob(code).sum(-1)
        found.append(log_probs.logsumexp(0) - math.log(len(kept)))
    return torch.stack(found)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("guide", [SMALL.guide, FullRank()], ids=["gaussian", "full-rank"])
def test_in_evaluation_all_exemplars_are_summed(guide: Any) -> None:
    model, guide, x = pair(prior=Exemplar(neighbours=1), guide=guide)
    with torch.no_grad():
        model.prior.log_scale.fill_(math.log(0.3))
        means = guide.posterior(x).mean
        z = torch.randn(5, 2)
        assert torch.allclose(model.prior().log_prob(z), by_hand(means, 0.3, z), atol=1e-9)
        assert torch.allclose(model.prior().log_prob(z[0]), by_hand(means, 0.3, z[:1])[0], atol=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("particles", [1, 3])
def test_all_neighbours_are_the_exact_leave_one_out(particles: int) -> None:
    model, guide, x = pair(prior=Exemplar(neighbours=ALL))
    numbers = torch.tensor([7, 3, 1000, 1256])
    model.prior.follow(numbers)
    z = guide.posterior(x[numbers]).rsample(Size((particles,)))
    found = model.prior().log_prob(z)
    means = guide.posterior(x).mean
    expected = torch.stack([by_hand(means, 1.0, part, numbers) for part in z])
    assert torch.allclose(found, expected, atol=1e-9)
    assert not torch.allclose(found, torch.stack([by_hand(means, 1.0, part) for part in z]), atol=1e-9)
    # and so are the gradients, to the exemplars as well
    here = torch.autograd.grad(found.sum(), guide.head.loc.weight, retain_graph=True)[0]
    there = torch.autograd.grad(expected.sum(), guide.head.loc.weight)[0]
    assert torch.allclose(here, there, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_neighbours_are_a_lower_bound_that_holds_most_of_the_mass() -> None:
    """By hand: the union of the k nearest of all codes of the batch, each counted once, without the own one."""
    model, guide, x = pair(prior=Exemplar(neighbours=100))
    numbers = torch.arange(10, 20)
    with torch.no_grad():
        model.prior.log_scale.fill_(math.log(0.1))
        model.prior.follow(numbers)
        z = guide.posterior(x[numbers]).sample()
        found = model.prior().log_prob(z)
        means = guide.posterior(x).mean
        exact = by_hand(means, 0.1, z, numbers)
        union: set[int] = set()
        for i, code in enumerate(z):
            distance = (means - code).square().sum(-1)
            distance[numbers[i]] = math.inf
            union |= set(distance.argsort()[:100].tolist())
        kept = torch.tensor(sorted(union))
        assert 100 < len(kept) < 1000  # many are near to several codes
        log_probs = Normal(means[kept], 0.1).log_prob(z[:, None]).sum(-1)
        log_probs = log_probs.masked_fill(kept == numbers[:, None], -math.inf)
        expected = log_probs.logsumexp(-1) - math.log(len(x) - 1)
    assert torch.allclose(found, expected, atol=1e-9)
    assert (found <= exact + 1e-12).all()
    assert (exact - found).max() < 1


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("neighbours", [ALL, 5])
def test_random_subsets_average_to_all_exemplars(neighbours: int) -> None:
    model, guide, x = pair(prior=Exemplar(neighbours, exemplars=200))
    numbers = torch.arange(3)
    with torch.no_grad():
        model.prior.follow(numbers)
        z = guide.posterior(x[numbers]).sample()
        found = torch.stack([model.prior().log_prob(z) for _ in range(400)]).exp()
        exact = by_hand(guide.posterior(x).mean, 1.0, z, numbers).exp()
    error = found.std(0) / 20
    assert (found.std(0) > 0).all()
    if neighbours == ALL:
        assert ((found.mean(0) - exact).abs() < 5 * error).all()
    else:
        assert (found.mean(0) < exact).all()


@pytest.mark.usefixtures("float64")
def test_more_exemplars_than_data_are_all_data() -> None:
    found = []
    for exemplars in (None, 5000):
        model, guide, x = pair(prior=Exemplar(ALL, exemplars))
        model.prior.follow(torch.arange(3))
        found.append(model.prior().log_prob(guide.posterior(x[:3]).mean))
    assert torch.allclose(*found)


def test_the_search_uses_cached_means_and_the_density_those_of_now() -> None:
    model, guide, x = pair(prior=Exemplar(neighbours=2))
    numbers = torch.arange(3)
    model.prior.follow(None)
    cached = model.prior.means.clone()
    model.prior.follow(numbers)
    with torch.no_grad():
        guide.head.loc.bias.add_(0.5)
    z = guide.posterior(x[numbers]).sample()
    model.prior().log_prob(z)
    assert torch.equal(model.prior.means, cached)
    model.prior.follow(None)
    assert torch.allclose(model.prior.means, guide.posterior(x).mean, atol=1e-5)
    assert torch.allclose(model.prior.means - cached, torch.tensor(0.5), atol=1e-5)


def test_its_density_integrates_to_one_and_is_that_of_its_draws() -> None:
    model, _, _ = pair(prior=Exemplar())
    with torch.no_grad():
        model.prior.log_scale.fill_(math.log(0.3))
    mass, error = mass_and_error(model.prior(), points=160)
    assert mass == pytest.approx(1, abs=1e-2)
    assert error < 4.5


class _Numbers:
    """A source that is read batch by batch."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.shape, self.dtype = x, x.shape, x.dtype

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Tensor:
        return torch.from_numpy(self.x.numpy()[index.numpy()])

    def batches(self, order: Any) -> Any:
        yield from (self[index] for index in order)


@pytest.mark.parametrize("mode", ["none", "capture"])
@pytest.mark.parametrize("source", [False, True], ids=["tensor", "source"])
def test_fit_says_which_data_are_in_a_batch(mode: str, source: bool) -> None:
    """Steps that are captured, or run as they are, on data in memory or read batch by batch: one training."""
    trained = []
    for how in ((False, "none"), (source, mode)):
        model, guide, x = pair(prior=Exemplar(neighbours=2, exemplars=600))
        if how[0]:
            model.prior.bind(guide, _Numbers(x))
        data: Any = Batch(_Numbers(x)) if how[0] else x
        settings = Training(epochs=2, batch_size=100, device="cpu", compile=how[1])
        with warnings.catch_warnings():  # data that are read by numpy cannot be captured
            warnings.simplefilter("ignore" if how[0] else "error", EagerWarning)
            fitted = fit(model, guide, data, x[:50], settings, progress=False)
        trained.append(fitted.history["train_elbo"].to_numpy())
        assert not model.prior.batch
        means = guide.posterior(x).mean
        assert torch.allclose(model.prior.means, means, atol=1e-4)
    assert trained[0] == pytest.approx(trained[1], rel=1e-5)


def test_it_trains_jointly_and_is_loaded_without_its_data(tmp_path: Any) -> None:
    experiment = Experiment.from_dict({**SMALL.to_dict(), "prior": Exemplar(exemplars=500)})
    run = train(experiment, tmp_path / "run", **QUICK)
    again = load(tmp_path / "run")
    assert again.experiment == experiment
    z = torch.randn(4, 2)
    assert torch.equal(again.pair.model.prior().log_prob(z), run.pair.model.prior().log_prob(z))
    x = run.data.train
    assert torch.allclose(again.pair.model.prior.means, again.pair.guide.posterior(x).mean, atol=1e-5)


def test_a_second_stage_fits_the_width_alone(tmp_path: Any) -> None:
    stage = SecondStage(Exemplar(), SMALL.inference)
    experiment = Experiment.from_dict({**SMALL.to_dict(), "second_stage": stage})
    run = train(experiment, tmp_path / "run", **QUICK)
    first = load(tmp_path / "run" / "first-stage")
    model, guide = run.pair
    for name, value in first.pair.guide.state_dict().items():
        assert torch.equal(guide.state_dict()[name], value), name
    assert torch.allclose(model.prior.means, guide.posterior(run.data.train).mean, atol=1e-5)
    assert model.prior.log_scale != 0
    assert [name for name, _ in model.prior.named_parameters()] == ["log_scale"]


@pytest.mark.parametrize("jointly", [True, False], ids=["jointly", "second-stage"])
def test_a_training_that_is_extended_ends_as_a_long_one(tmp_path: Any, jointly: bool) -> None:
    def run(epochs: int, place: str, **how: Any) -> dict[str, Tensor]:
        training = Training(epochs=epochs, batch_size=128, device="cpu")
        parts: dict[str, Any] = {"prior": Exemplar(5), "inference": training}
        if not jointly:
            parts = {"second_stage": SecondStage(Exemplar(5, 300), training)}
        one = Experiment.from_dict({**SMALL.to_dict(), **parts})
        return train(one, tmp_path / place, **QUICK, **how).pair.model.state_dict()

    run(1, "short")
    extended, whole = run(3, "short", resume=True), run(3, "long")
    assert all(torch.equal(extended[name], value) for name, value in whole.items())


def test_copies_share_the_data_and_nothing_else() -> None:
    model, guide, x = pair(prior=Exemplar())
    other, _ = copy.deepcopy((model, guide))
    assert other.prior.data.train is model.prior.data.train
    z = torch.randn(4, 2)
    assert torch.equal(other.prior().log_prob(z), model.prior().log_prob(z))
    assert "numbers" not in model.prior.state_dict()
    assert sum(value.numel() for value in model.prior.state_dict().values()) == 1 + 2 * len(x)


def test_other_codes_in_a_training_step_are_refused() -> None:
    model, _, _ = pair(prior=Exemplar())
    model.prior.follow(torch.arange(3))
    with pytest.raises(FlowvaeError, match=r"4.*3 data points.*follow\(None\)"):
        model.prior().log_prob(torch.randn(4, 2))
    model.eval()
    assert model.prior().log_prob(torch.randn(4, 2)).shape == (4,)


REFUSED = {
    "one": (lambda: Exemplar(exemplars=1), "Exemplar.exemplars = 1"),
    "no neighbours": (lambda: Exemplar(0), "Exemplar.neighbours = 0"),
    "no means": (lambda: pair(prior=Exemplar(), guide=FlowGuide(IAF(1, (8,)))), "Exemplar.*gaussian or full-rank"),
    "condition": (lambda: Experiment(prior=Exemplar(), condition=Condition()), "Exemplar"),
    "condition of the guide": (
        lambda: pair(prior=Exemplar(), condition=Condition(prior=False)),
        "Exemplar.*Condition.*condition.encoder",
    ),
    "semi-amortized": (lambda: Experiment(prior=Exemplar(), guide=SemiAmortized()), "SemiAmortized.*Exemplar"),
    "no guide": (lambda: Exemplar().build(2)(), "Exemplar.*bind"),
}


@pytest.mark.parametrize(("mistake", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_mistakes_are_named(mistake: Any, words: str) -> None:
    with pytest.raises(FlowvaeError, match=words):
        mistake()
