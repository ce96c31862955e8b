"""Under which conditions a fit runs: batches, modes of the modules, memory; and what it says if nothing can be done."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pyro
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae import Digits, Experiment, FlowvaeError, Mixture, Pinwheel, Training
from flowvae.core.errors import DamagedError
from flowvae.core.parts import LikelihoodSpec
from flowvae.core.seeds import derive
from flowvae.data.batch import Batch
from flowvae.experiments.assemble import ModelGuide, build
from flowvae.experiments.stages import freeze_except_prior
from flowvae.guides import AmortizedGuide
from flowvae.guides.gaussian import BASES
from flowvae.inference import TrainingStopped, best_weights, fit, load_checkpoint, save_checkpoint
from flowvae.inference.not_finite import cause_at_start
from flowvae.models import VAE, GaussianLikelihood
from flowvae.networks import MLP, declare_parameters

ONCE = Training(epochs=1, batch_size=20, clip=None, device="cpu", validation_draws=2)
SMALL = Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,)))
WHOLE = Digits().load(0)
DIGITS = replace(
    WHOLE,
    **{split: getattr(WHOLE, split).flatten(1) for split in ("train", "valid", "test")},  # for layers by hand
)
X = DIGITS.train[:60]


def built(likelihood: LikelihoodSpec, x: Tensor) -> LazyDistribution:
    return likelihood.build(x.shape[1:], likelihood.units(x))


def trained(settings: Training, x: Tensor = X) -> tuple[ModelGuide, float]:
    pair = build(SMALL, DIGITS)
    history = fit(*pair, x, x, settings, progress=False).history
    return pair, float(history["train_elbo"].iloc[-1])


@pytest.mark.parametrize("compiled", ["none", "capture"])
@pytest.mark.parametrize("size", [61, 10**12, 2**62])
def test_a_batch_larger_than_the_data_is_all_of_them(size: int, compiled: str) -> None:
    exact, elbo = trained(replace(ONCE, epochs=3, batch_size=60, compile=compiled))
    other, same = trained(replace(ONCE, epochs=3, batch_size=size, compile=compiled))
    assert same == elbo
    for part, twin in zip(exact, other, strict=True):
        for one, two in zip(part.parameters(), twin.parameters(), strict=True):
            assert torch.equal(one, two)


class _Counted(nn.Module):
    """log p(x) = scale · Σ x: the gradient of a step is the sum of its data over what the loss is divided by."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))
        self.gradients: list[float] = []
        self.scale.register_hook(lambda gradient: self.gradients.append(-gradient.item()))

    def forward(self, x: Tensor, size: int | None = None) -> None:
        declare_parameters("model", self)
        with pyro.plate("data", len(x)):
            pyro.factor("sum", self.scale * x[:, 0])


class _Nothing(nn.Module):
    def forward(self, x: Tensor, size: int | None = None) -> None:
        pass


@pytest.mark.parametrize(("size", "steps"), [(4, 3), (10, 1), (50, 1)])
def test_every_datum_has_the_same_weight_in_an_epoch(size: int, steps: int) -> None:
    """The last batch of 10 data in batches of 4 holds 2: it counts half as much as the others."""
    model, x = _Counted(), torch.ones(10, 1)
    fit(model, _Nothing(), x, x, replace(ONCE, batch_size=size), progress=False)
    assert model.gradients == pytest.approx([1.0, 1.0, 0.5][-steps:] if steps == 3 else [1.0])
    assert len(model.gradients) == steps


def layered() -> ModelGuide:
    """Normalization and dropout in both networks."""

    def network(inputs: int, outputs: int) -> nn.Sequential:
        layers = nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, outputs)
        return nn.Sequential(*layers)

    torch.manual_seed(3)
    model, guide = build(SMALL, DIGITS)
    model.decoder, guide.encoder = network(2, 64), network(64, 8)
    return ModelGuide(model, guide)


def test_a_batch_of_one_row_before_batch_normalization_is_refused_in_one_line() -> None:
    with pytest.raises(FlowvaeError) as refused:
        fit(*layered(), X[:9], X[:9], replace(ONCE, batch_size=4, compile="none"), progress=False)
    assert "batch 2: 1 row" in str(refused.value)
    assert "batch_size" in str(refused.value)
    assert "\n" not in str(refused.value)


class _Modes:
    """In which mode a module ran with and without gradients."""

    def __init__(self, module: nn.Module) -> None:
        self.seen: set[tuple[bool, bool]] = set()
        module.register_forward_pre_hook(lambda one, _: self.seen.add((torch.is_grad_enabled(), one.training)))


@pytest.mark.parametrize("particles", [1, 3])
def test_steps_train_and_validations_evaluate(particles: int) -> None:
    pair = layered()
    pair.guide.encoder[1].eval()  # kept as it is on purpose
    free, frozen = _Modes(pair.model.decoder[2]), _Modes(pair.guide.encoder[1])
    before = [module.training for part in pair for module in part.modules()]
    kept = pair.guide.encoder[1].running_mean.clone()
    fit(*pair, X, X[:30], replace(ONCE, epochs=2, particles=particles, compile="none"), progress=False)
    assert free.seen == {(True, True), (False, False)}
    assert frozen.seen == {(True, False), (False, False)}
    assert [module.training for part in pair for module in part.modules()] == before
    assert torch.equal(pair.guide.encoder[1].running_mean, kept)
    # three steps an epoch, each once whatever the particles; validation adds none
    assert pair.model.decoder[1].num_batches_tracked.item() == 6


def test_what_a_second_stage_holds_keeps_its_statistics() -> None:
    model, guide = layered()
    model = VAE(Mixture(2).build(2), model.decoder, model.likelihood)
    networks = [model.decoder, guide.encoder]
    before = [value.clone() for network in networks for value in network.state_dict().values()]
    prior = [parameter.clone() for parameter in model.prior.parameters()]
    with freeze_except_prior((model, guide)):
        fit(model, guide, X, X, replace(ONCE, epochs=2), progress=False)
    after = [value for network in networks for value in network.state_dict().values()]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert not all(torch.equal(old, new) for old, new in zip(prior, model.prior.parameters(), strict=True))
    assert all(module.training for network in networks for module in network.modules())


def test_validation_does_not_depend_on_what_is_validated_together() -> None:
    """The ELBO of data validated twice over is that of the data."""
    settings = replace(ONCE, learning_rate=1e-12, validation_draws=1)

    def validated(valid: Tensor) -> float:
        pair = layered()
        with torch.no_grad():
            pair.guide.head.log_scale.bias.fill_(-12.0)
        return float(fit(*pair, X, valid, settings, progress=False).history["valid_elbo"].iloc[0])

    assert validated(X[:20]) == pytest.approx(validated(X[:20].repeat(2, 1)), rel=1e-2)


class Mean(nn.Module):
    """x ~ N(z, 1) for every value, with one z for each data point."""

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
            pyro.sample(
                "x", pyro.distributions.Normal(z[..., None].expand(*z.shape, x.shape[1]), 1.0).to_event(1), obs=x
            )


class NotedGuide(nn.Module):
    """A guide that notes the largest batch that it has seen in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))
        self.largest = 0

    def forward(self, x: Tensor) -> None:
        self.largest = self.largest if self.training else max(self.largest, len(x))
        declare_parameters("guide", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.Normal(self.loc, 1.0))


@pytest.mark.parametrize(("values", "rows"), [(1024, 2048), (4096, 512)])
def test_fewer_large_data_points_are_validated_at_a_time(values: int, rows: int) -> None:
    guide = NotedGuide()
    fit(Mean(), guide, torch.zeros(20, values), torch.zeros(2100, values), ONCE, progress=False)
    assert guide.largest == rows


@pytest.mark.parametrize("particles", [1, 3])
def test_a_captured_step_normalizes_and_drops_as_pyros_does(particles: int) -> None:
    ends = []
    for compiled in ("none", "capture"):
        pair = layered()
        fit(*pair, X, X, replace(ONCE, epochs=3, particles=particles, compile=compiled), progress=False)
        ends.append([value for part in pair for value in part.state_dict().values()])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("setting", ["particles", "validation_draws"])
def test_draws_that_no_memory_holds_are_refused_with_their_bytes(setting: str) -> None:
    count = 10**13
    least = 20 * 64 * 4 * count if setting == "particles" else 64 * 4 * count
    with pytest.raises(FlowvaeError, match=rf"{setting} = {count}\D.* {least / 1e15:.3g} PB"):
        trained(replace(ONCE, **{setting: count}))


PLANE = Pinwheel(train=100, valid=20, test=20).load(0)


def stopped(train: Tensor, noise: float | None = None, **settings: float) -> str:
    pair = build(SMALL, PLANE)
    if noise is not None:
        pair.model.likelihood = built(GaussianLikelihood(0.5), PLANE.train)
        pair.model.likelihood.log_scale.copy_(math.log(noise) - pair.model.likelihood.unit.log())
    with pytest.raises(TrainingStopped) as caught:
        fit(*pair, train, PLANE.valid, replace(ONCE, **{"batch_size": 100, **settings}), progress=False)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize("value", [1e12, 1e25, 3e38])
def test_an_outlier_is_named_as_the_cause_of_a_first_step(value: float) -> None:
    train = PLANE.train.clone()
    train[17, 1] = value
    text = stopped(train)
    assert f"{value:g}" in text
    assert "row 17" in text
    assert "learning_rate" not in text


def test_an_outlier_is_named_in_a_later_step() -> None:
    train = PLANE.train.clone()
    order = torch.randperm(100, generator=torch.Generator().manual_seed(derive(0, "order", 0)))
    train[order[45], 0] = 1e25  # comes in the third batch of 20
    text = stopped(train, batch_size=20)
    assert "epoch 0, batch 2" in text
    assert f"row {order[45]}" in text
    assert "1e+25" in text
    assert "learning_rate" not in text


def test_a_noise_scale_is_named_as_the_cause_of_a_first_step() -> None:
    text = stopped(PLANE.train, 1e-18)
    assert "1e-18" in text
    assert "noise scale" in text
    assert "learning_rate" not in text


def test_a_kl_weight_is_named_as_the_cause_of_a_first_step() -> None:
    text = stopped(PLANE.train, kl_weight=1e38)
    assert "kl_weight = 1e+38" in text
    assert "learning_rate" not in text


def test_a_parameter_is_named_as_the_cause_of_a_first_step() -> None:
    model, guide = build(SMALL, DIGITS)
    with torch.no_grad():
        guide.head.loc.bias[1] = math.inf
    text = cause_at_start(model, guide, Batch(X[:5]), torch.arange(5), 1.0, "")
    assert text is not None
    assert "guide.head.loc.bias holds inf" in text


def test_a_later_step_is_advised_on_the_step_size() -> None:
    assert "learning_rate" in stopped(PLANE.train, learning_rate=1e30, epochs=3)


def test_validation_data_that_stop_a_training_are_named() -> None:
    pair = build(SMALL, PLANE)
    valid = PLANE.valid.clone()
    valid[3, 0] = 2e38
    with pytest.raises(TrainingStopped, match=r"2e\+38.*row 3"):
        fit(*pair, PLANE.train, valid, ONCE, progress=False)


@pytest.mark.parametrize("base", ["gaussian", "full-rank"])
@pytest.mark.parametrize("value", [-1e30, -21.0, 21.0, 1e30])
def test_the_scale_of_a_guide_is_bounded(base: str, value: float) -> None:
    head = BASES[base]().build(2, 3)
    with torch.no_grad():
        head.log_scale.bias.fill_(value)
        head.log_scale.weight.zero_()
    q = head(torch.zeros(4, 3))
    assert (q.stddev.log().abs() - 20).abs().max() < 1e-4
    assert q.log_prob(q.rsample()).isfinite().all()


@pytest.mark.parametrize("value", [-19.0, -3.3, 0.0, 7.7])
def test_a_usual_scale_is_exactly_what_the_network_says(value: float) -> None:
    head = BASES["gaussian"]().build(2, 3)
    with torch.no_grad():
        head.log_scale.bias.fill_(value)
        head.log_scale.weight.zero_()
    assert torch.equal(head(torch.zeros(1, 3)).base_dist.scale, torch.full((1, 2), value).exp())


def test_weights_that_are_nan_are_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "c"
    pair = build(SMALL, DIGITS)
    fit(*pair, X, X, ONCE, checkpoint=file, progress=False)
    tensors, facts = load_checkpoint(file)
    name = next(key for key in tensors if key.startswith("best/model.decoder"))
    tensors[name].view(-1)[0] = math.nan
    facts.pop("sha256", None)
    save_checkpoint(file, tensors, facts)
    assert load_file(file)[name].isnan().any()
    with pytest.raises(DamagedError, match=name.replace(".", r"\.")):
        best_weights(load_checkpoint(file)[0])
    with pytest.raises(DamagedError, match=name.replace(".", r"\.")):
        fit(*pair, X, X, replace(ONCE, epochs=2), checkpoint=file, progress=False)


def test_a_pair_of_other_modules_is_refused_before_any_step() -> None:
    model = VAE(SMALL.prior.build(2), nn.Linear(2, 64), built(DIGITS.likelihood, X))
    guide = AmortizedGuide(nn.Linear(32, 4), SMALL.guide.build(2, 4))
    with pytest.raises(FlowvaeError, match=r"\(60, 64\).*32"):
        fit(model, guide, X, X, ONCE, progress=False)
