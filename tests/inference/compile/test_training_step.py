"""A whole training step against Pyro's loss, autograd, torch's clipping and torch's AdamW."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from pair_cases import ADAPTIVE_PRIORS, Interpreted, build, covering
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from flowvae import MAF, Digits, Experiment, as_data
from flowvae.core.registry import families
from flowvae.inference import CompiledTrace_ELBO, JointAdam, Ramp, weigh_latent
from flowvae.inference.compile import training_step
from flowvae.inference.compile.native import CompileError
from flowvae.inference.compile.training_step import TrainingStep
from flowvae.inference.optim import OWN, NonFiniteError
from flowvae.networks import MLP

DIGITS = Digits().load(0).train
RATE, DECAY, PRIOR_DECAY = 1e-2, 0.1, 0.3


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_step, "NativeProgram", Interpreted)


def optimizer(pair: nn.ModuleDict, clip: float | None, decays: tuple[float, float] = (0.0, 0.0)) -> JointAdam:
    of_prior = set(pair["model"].prior.parameters())
    return JointAdam(pair.named_parameters(), RATE, clip, lambda p: decays[p in of_prior])


def reference(
    pair: nn.ModuleDict, batches: list[Tensor], clip: float | None, decays: tuple[float, float]
) -> list[float]:
    """Steps with torch's own parts on the pair; the losses."""
    of_prior = set(pair["model"].prior.parameters())
    groups = [[p for p in pair.parameters() if (p in of_prior) is prior] for prior in (False, True)]
    adam = torch.optim.AdamW(
        [{"params": params, "weight_decay": decay} for params, decay in zip(groups, decays, strict=True) if params],
        lr=RATE,
    )
    losses = []
    for seed, batch in enumerate(batches):
        torch.manual_seed(seed)
        adam.zero_grad()
        losses.append(Trace_ELBO().loss_and_grads(pair["model"], pair["guide"], batch))
        if clip is not None:
            nn.utils.clip_grad_norm_(pair.parameters(), clip)
        adam.step()
    return losses


def compiled(pair: nn.ModuleDict, batches: list[Tensor], optim: JointAdam) -> tuple[TrainingStep, list[float]]:
    """The same steps as a program; the losses."""
    found = CompiledTrace_ELBO().program(pair["model"], pair["guide"], batches[0])
    assert found is not None
    step = TrainingStep(found[0], optim, found[1])
    step.check()
    losses = []
    for seed, batch in enumerate(batches):
        torch.manual_seed(seed)
        losses.append(step([batch]))
    return step, losses


def assert_equal_steps(
    pair: nn.ModuleDict, batches: list[Tensor], clip: float | None = 10.0, decays: tuple[float, float] = (0.0, 0.0)
) -> TrainingStep:
    other = copy.deepcopy(pair)
    expected = reference(pair, batches, clip, decays)
    step, found = compiled(other, batches, optimizer(other, clip, decays))
    assert found == pytest.approx(expected, rel=1e-10)
    for (name, one), two in zip(pair.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")
    for one, two in zip(pair.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(two, one)
    return step


def as_pair(model: Any, guide: Any) -> nn.ModuleDict:
    return nn.ModuleDict({"model": model, "guide": guide}).double()


BATCHES = [DIGITS[5 * n : 5 * n + 5].double() for n in range(4)]


# steps with exemplar need `fit`, which says when its means are computed anew; its own tests have them
@pytest.mark.parametrize(
    ("prior", "guide"), [case for case in covering() if case[0] not in ADAPTIVE_PRIORS | {"exemplar"}]
)
@pytest.mark.usefixtures("float64")
def test_every_prior_and_guide(prior: str, guide: str) -> None:
    assert_equal_steps(as_pair(*build(prior, guide)), BATCHES)


@pytest.mark.parametrize("likelihood", ["bernoulli", "binomial:16", "gaussian", "poisson", "categorical:17"])
@pytest.mark.usefixtures("float64")
def test_every_likelihood(likelihood: str) -> None:
    assert likelihood.split(":")[0] in families("likelihood")
    x = DIGITS[:40].double() if likelihood != "bernoulli" else (DIGITS[:40] > 8).double()
    x = x + torch.rand(x.shape) if likelihood == "gaussian" else x
    data = as_data(x, likelihood)
    experiment = Experiment(data=data, latent=2, encoder=MLP((8,)), decoder=MLP((8,)), prior=MAF(1, (8,)))
    pair = experiment.build(data.load(0))
    assert_equal_steps(as_pair(*pair), [x[5 * n : 5 * n + 5] for n in range(4)])


@pytest.mark.parametrize("clip", [None, 1e-2, 1e6])
@pytest.mark.parametrize("decays", [(0.0, 0.0), (DECAY, PRIOR_DECAY)])
@pytest.mark.usefixtures("float64")
def test_clipping_and_weight_decay(clip: float | None, decays: tuple[float, float]) -> None:
    assert_equal_steps(as_pair(*build("maf", "gaussian")), BATCHES, clip, decays)


@pytest.mark.usefixtures("float64")
def test_a_large_parameter_stays_in_memory_of_its_own() -> None:
    experiment = Experiment(latent=2, encoder=MLP((OWN // 64,)), decoder=MLP((8,)), prior=MAF(1, (8,)))
    step = assert_equal_steps(as_pair(*experiment.build(Digits().load(0))), BATCHES)
    assert sorted(len(chunk.parts) > 1 for chunk in step.chunks) == [False, True]


@pytest.mark.usefixtures("float64")
def test_buffers_change_as_without_a_program() -> None:
    pair = as_pair(*build("maf", "gaussian"))
    encoder = pair["guide"].encoder
    pair["guide"].encoder = nn.Sequential(encoder, nn.BatchNorm1d(encoder(BATCHES[0]).shape[-1]))
    assert_equal_steps(pair, BATCHES)


@pytest.mark.usefixtures("float64")
def test_annealing_weights_and_learning_rates_change_from_step_to_step() -> None:
    pair = as_pair(*build("maf", "gaussian"))
    ends = [pair, copy.deepcopy(pair)]
    for one in ends:
        ramp = Ramp(3, start=0.1)
        model, guide = weigh_latent(one["model"], ramp), weigh_latent(one["guide"], ramp)
        optim = optimizer(one, 10.0)
        step = None
        if one is not pair:
            found = CompiledTrace_ELBO().program(model, guide, BATCHES[0])
            assert found is not None
            step = TrainingStep(found[0], optim, found[1])
        for seed, batch in enumerate(BATCHES):
            ramp.step, optim.learning_rate = seed, RATE / (1 + seed)
            torch.manual_seed(seed)
            if step is None:
                Trace_ELBO().loss_and_grads(model, guide, batch)
                optim(list(one.parameters()))
                one.zero_grad()
            else:
                step([batch])
    for parameter, other in zip(*(one.parameters() for one in ends), strict=True):
        torch.testing.assert_close(other, parameter, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_programs_and_the_optimizer_may_take_turns_and_the_state_is_always_the_whole() -> None:
    pair = as_pair(*build("maf", "gaussian"))
    other = copy.deepcopy(pair)
    reference(pair, BATCHES, 10.0, (0.0, 0.0))
    optim = optimizer(other, 10.0)
    found = CompiledTrace_ELBO().program(other["model"], other["guide"], BATCHES[0])
    assert found is not None
    for seed, batch in enumerate(BATCHES):
        torch.manual_seed(seed)
        if seed in (0, 2):
            TrainingStep(found[0], optim, found[1])([batch])
        else:
            Trace_ELBO().loss_and_grads(other["model"], other["guide"], batch)
            optim(list(other.parameters()))
            other.zero_grad()
        # as after a checkpoint
        state = {name: value.clone() for name, value in optim.state().items()}
        assert {float(value) for name, value in state.items() if name.endswith("/step")} == {seed + 1.0}
        optim.restore(state)
        assert not optim.packed
    for one, two in zip(pair.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-8, atol=1e-10)
        assert two.untyped_storage().nbytes() == two.numel() * two.element_size()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_not_taken(value: float) -> None:
    pair = nn.ModuleDict(dict(zip(("model", "guide"), build("maf", "gaussian"), strict=True)))
    step, _ = compiled(pair, [batch.float() for batch in BATCHES], optimizer(pair, 10.0))
    next(pair["model"].decoder.parameters()).data[0] = value
    before = {name: tensor.clone() for name, tensor in [*pair.state_dict().items(), *step.optim.state().items()]}
    with pytest.raises(NonFiniteError):
        step([BATCHES[0].float()])
    after = {**pair.state_dict(), **step.optim.state()}
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0.0, atol=0.0, equal_nan=True)


def test_a_program_whose_results_differ_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = nn.ModuleDict(dict(zip(("model", "guide"), build("maf", "gaussian"), strict=True)))
    optim = optimizer(pair, 10.0)
    found = CompiledTrace_ELBO().program(pair["model"], pair["guide"], BATCHES[0].float())
    assert found is not None
    step = TrainingStep(found[0], optim, found[1])
    before = {name: tensor.clone() for name, tensor in pair.state_dict().items()}
    for wrong in range(3):

        def broken(*inputs: Tensor, wrong: int = wrong) -> list[Tensor]:
            loss, norm = step.graph(*inputs)
            if wrong == 0:
                return [1.01 * loss, norm]
            inputs[wrong - 1].mul_(1.01)  # weights, or the first moment
            return [loss, norm]

        monkeypatch.setattr(step, "native", broken)
        with pytest.raises(CompileError):
            step.check()
        assert all(torch.equal(tensor, pair.state_dict()[name]) for name, tensor in before.items())


def test_the_rounding_of_gradients_that_are_zero_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch normalization removes the bias before it; Adam makes whole steps of what rounding leaves."""
    pair = nn.ModuleDict(dict(zip(("model", "guide"), build("maf", "gaussian"), strict=True)))
    encoder = pair["guide"].encoder
    size = encoder(BATCHES[0].float()).shape[-1]
    pair["guide"].encoder = nn.Sequential(encoder, nn.Linear(size, size), nn.BatchNorm1d(size))
    found = CompiledTrace_ELBO().program(pair["model"], pair["guide"], BATCHES[0].float())
    assert found is not None
    step = TrainingStep(found[0], optimizer(pair, 10.0), found[1])
    monkeypatch.setattr(step, "native", lambda *inputs: step.graph(*inputs[:-1], inputs[-1] * (1 + 1e-6)))
    step.check()


def test_parameters_moved_to_other_memory_are_packed_again() -> None:
    pair = nn.ModuleDict(dict(zip(("model", "guide"), build("maf", "gaussian"), strict=True)))
    x, optim = BATCHES[0].float(), optimizer(pair, 10.0)
    step, _ = compiled(pair, [x], optim)
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(pair.parameters()).detach(), pair.parameters())
    assert not step.fits()
    before = [p.clone() for p in pair.parameters()]
    step, _ = compiled(pair, [x], optim)
    assert step.fits()
    assert not any(torch.equal(*values) for values in zip(before, pair.parameters(), strict=True))


def test_parameters_that_moved_or_were_frozen_no_longer_fit() -> None:
    pair = nn.ModuleDict(dict(zip(("model", "guide"), build("maf", "gaussian"), strict=True)))
    step, _ = compiled(pair, [BATCHES[0].float()], optimizer(pair, 10.0))
    assert step.fits()
    first = next(pair.parameters())
    first.requires_grad_(False)
    assert not step.fits()
    first.requires_grad_(True)
    assert step.fits()
    first.data = first.data.clone()
    assert not step.fits()


def test_foreign_parameters_cannot_be_packed() -> None:
    pair = nn.ModuleDict(dict(zip(("model", "guide"), build("maf", "gaussian"), strict=True)))
    found = CompiledTrace_ELBO().program(pair["model"], pair["guide"], BATCHES[0].float())
    assert found is not None
    of_model = JointAdam(pair["model"].named_parameters(), RATE)
    with pytest.raises(CompileError):
        TrainingStep(found[0], of_model, found[1])


@pytest.mark.parametrize(("error", "close"), [(1e-3, True), (0.02, False)])
def test_gradients_may_differ_as_those_of_deep_networks_do(error: float, close: bool) -> None:
    """In float32 the sign of one ReLU's input, which rounding decides, changes a gradient by a thousandth."""
    vae = Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,))).build(Digits().load(0))
    pair = nn.ModuleDict(vae._asdict())
    optim = optimizer(pair, None)
    found = CompiledTrace_ELBO().program(pair["model"], pair["guide"], DIGITS[:20])
    assert found is not None
    step = TrainingStep(found[0], optim, found[1])
    native = step.native

    def off(*inputs: Tensor) -> list[Tensor]:
        out = native(*inputs)
        inputs[1].mul_(1 + error)  # the mean of the gradients
        return out

    step.native = off  # type: ignore[assignment]
    if close:
        step.check()
    else:
        with pytest.raises(CompileError, match="gradients"):
            step.check()
