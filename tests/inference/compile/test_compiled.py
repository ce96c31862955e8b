"""The compiled ELBO against Pyro's own: the same losses and gradients from the same seeds, or a warning says why."""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pair_cases import ADAPTIVE_PRIORS, build, covering, needs_compiler
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import SVI, Trace_ELBO
from pyro.nn import PyroModule, PyroParam
from pyro.optim import Adam
from torch import Tensor, nn

from flowvae import MAF, Digits, Experiment, FlowvaeError, Training
from flowvae.core.parts import Condition
from flowvae.data.batch import Batch
from flowvae.inference import CompiledTrace_ELBO, EagerWarning, JointAdam, Ramp, fit, temper, weigh_latent
from flowvae.inference.compile import capture
from flowvae.inference.compile.compiled import _close
from flowvae.inference.compile.native import CompileError
from flowvae.inference.optim import NonFiniteError
from flowvae.networks import MLP, declare_parameters

DIGITS = Digits().load(0).train


@pytest.fixture(autouse=True)
def _own_parameter_store() -> Iterator[None]:
    yield
    pyro.clear_param_store()


def measured(elbo: Any, model: Any, guide: Any, leaves: list[Tensor], seed: int, *args: Any) -> tuple[float, Any]:
    """Loss and gradients."""
    torch.manual_seed(seed)
    for leaf in leaves:
        leaf.grad = None
    loss = elbo.loss_and_grads(model, guide, *args)
    return loss, [leaf.grad for leaf in leaves]


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        ((1.0, 2.0), (1.0, 2.0 + 1e-5), True),
        ((1.0, 2.0), (1.0, 2.1), False),
        ((1.0, 2.0), (math.nan, 2.0), False),
        ((math.nan, 2.0), (1.0, 2.0), False),
        ((math.nan, math.inf), (math.nan, math.inf), True),
    ],
)
def test_a_program_is_compared_where_pyro_is_not_finite(expected: Any, found: Any, same: bool) -> None:
    assert _close([torch.tensor(value) for value in expected], [torch.tensor(value) for value in found]) is same


def assert_same(
    model: Any,
    guide: Any,
    leaves: list[Tensor],
    batches: list[Any],
    before: Callable[[int], object] = lambda index: None,
    tolerance: float = 1e-5,
    **settings: Any,
) -> CompiledTrace_ELBO:
    """Loss and gradients of the compiled ELBO are Pyro's, batch after batch, and so are the random numbers after it."""
    plain = {key: value for key, value in settings.items() if key != "compile"}
    eager, compiled = Trace_ELBO(**plain), CompiledTrace_ELBO(**settings)
    for index, batch in enumerate(batches):
        before(index)
        loss, grads = measured(eager, model, guide, leaves, index, *Batch.of(batch).args)
        follows = torch.rand(3)
        again, others = measured(compiled, model, guide, leaves, index, *Batch.of(batch).args)
        assert torch.equal(torch.rand(3), follows)
        assert again == pytest.approx(loss, rel=1e-5)
        for grad, other in zip(grads, others, strict=True):
            assert (grad is None) == (other is None)
            if grad is not None:
                scale = grad.abs().max().item() + 1e-3
                torch.testing.assert_close(other, grad, rtol=tolerance, atol=tolerance * scale)
    return compiled


def programs(elbo: CompiledTrace_ELBO) -> int:
    return sum(map(len, elbo._programs.values()))


def parameters(*modules: Any) -> list[Tensor]:
    return [parameter for module in modules for parameter in module.parameters()]


@pytest.mark.parametrize(("prior", "guide"), covering())
def test_every_family_has_the_losses_and_gradients_of_trace_elbo(prior: str, guide: str) -> None:
    pair = build(prior, guide)
    batches = [DIGITS[:5], DIGITS[5:10], DIGITS[10:15]]
    if prior in ADAPTIVE_PRIORS:
        with pytest.warns(EagerWarning, match=r"depends on the value of a tensor .* at \w+/\w+\.py:\d+") as said:
            assert_same(*pair, parameters(*pair), batches)
        assert len(said) == 1
    else:
        # the third run is the program alone
        assert programs(assert_same(*pair, parameters(*pair), batches)) == 1


def test_other_shapes_ask_for_other_programs() -> None:
    pair = build("maf", "gaussian")
    batches = [DIGITS[:5], DIGITS[:3], DIGITS[5:10], DIGITS[3:6], DIGITS[5:10], DIGITS[4:7]]
    assert programs(assert_same(*pair, parameters(*pair), batches)) == 2


@pytest.mark.parametrize("annealing", ["weigh_latent", "temper"])
def test_annealing_weights_are_inputs(annealing: str) -> None:
    pair = build("maf", "iaf")
    ramp = Ramp(steps=4, start=0.0)
    model = {"weigh_latent": weigh_latent, "temper": temper}[annealing](pair.model, ramp)
    guide = weigh_latent(pair.guide, ramp) if annealing == "weigh_latent" else pair.guide

    def before(index: int) -> None:
        ramp.step = index

    assert programs(assert_same(model, guide, parameters(*pair), [DIGITS[:5]] * 6, before)) == 1


@pytest.mark.parametrize("vectorized", [False, True])
def test_particles(vectorized: bool) -> None:
    pair = build("nsf", "gaussian")
    settings = {"num_particles": 3, "vectorize_particles": vectorized}
    assert_same(*pair, parameters(*pair), [DIGITS[:5]] * 3, max_plate_nesting=1, **settings)


class Masked(nn.Module):
    """Half of the data, at a tenth of the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> None:
        declare_parameters("model", self)
        plate = pyro.plate("data", 10, subsample=torch.arange(len(x)))
        with plate, poutine.scale(scale=0.1), poutine.mask(mask=x[:, 0] > 0):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)


class Simple(nn.Module):
    """z ~ N(net(x), 1)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> None:
        declare_parameters("guide", self)
        with pyro.plate("data", 10, subsample=torch.arange(len(x))):
            pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))


def simple_pair(net: nn.Module | None = None) -> tuple[Masked, Simple]:
    return Masked(), Simple(nn.Linear(2, 2) if net is None else net)


X = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))


def test_scale_mask_and_subsampling() -> None:
    pair = simple_pair()
    assert_same(*map(poutine.scale(scale=0.3), pair), parameters(*pair), [X, X + 1, -X])


class Conditional(nn.Module):
    """Model or guide of a code given a condition, which it embeds if it is an index."""

    def __init__(self, role: str, net: nn.Module) -> None:
        super().__init__()
        self.role, self.net, self.code = role, net, nn.Linear(2, 2)

    def forward(self, x: Tensor, c: Tensor | None = None) -> None:
        declare_parameters(self.role, self)
        shift = torch.zeros(2) if c is None else self.net(c)
        with pyro.plate("data", len(x)):
            if self.role == "guide":
                pyro.sample("z", dist.Normal(self.code(x) + shift, 0.5).to_event(1))
                return
            z = pyro.sample("z", dist.Normal(shift, 1.0).expand(x.shape).to_event(1))
            pyro.sample("x", dist.Normal(self.code(z) - shift, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("kind", ["one-hot", "index"])
def test_a_condition_is_an_input(kind: str) -> None:
    """Its values may change from step to step; another shape, or none, asks for another program."""
    if kind == "index":
        nets: list[nn.Module] = [nn.Embedding(3, 2) for _ in range(2)]
        conditions = [torch.arange(6) % (1 + step % 3) for step in range(5)]
    else:
        nets = [nn.Linear(3, 2) for _ in range(2)]
        conditions = [torch.eye(3)[torch.arange(6) % (1 + step % 3)] for step in range(5)]
    pair = Conditional("model", nets[0]), Conditional("guide", nets[1])
    losses = []
    for c in conditions[:3]:
        torch.manual_seed(0)
        losses.append(Trace_ELBO().loss(*pair, X, c))
    assert max(losses) - min(losses) > 0.1
    assert programs(assert_same(*pair, parameters(*pair), [Batch(X, c) for c in conditions])) == 1
    batches = [X, Batch(X[:4], conditions[0][:4]), *(Batch(X + step, c) for step, c in enumerate(conditions)), X, X]
    assert programs(assert_same(*pair, parameters(*pair), batches)) == 3


def test_a_conditional_vae() -> None:
    """Prior, encoder, guide head and decoder read the condition."""
    parts = {"encoder": MLP((8,)), "decoder": MLP((8,)), "prior": MAF(2, (8,)), "condition": Condition()}
    pair = Experiment(latent=2, **parts).build(Digits().load(0))
    classes = torch.eye(10)
    batches = [Batch(DIGITS[step : step + 5], classes[step : step + 5]) for step in range(4)]
    assert programs(assert_same(*pair, parameters(*pair), batches)) == 1


class Aggregated(nn.Module):
    """A model whose prior is the mixture of the guide's posteriors at pseudo-inputs (Tomczak & Welling 2018)."""

    def __init__(self, guide: Encoded) -> None:
        super().__init__()
        self.guides = (guide,)  # referenced, not a part
        self.pseudo_inputs = nn.Parameter(torch.randn(3, 2))
        self.net = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> None:
        declare_parameters("model", self)
        parts = self.guides[0].posterior(self.pseudo_inputs)
        prior = dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros(3)), parts)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)


class Encoded(nn.Module):
    """A Gaussian guide whose encoder has buffers that every call changes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4))

    def posterior(self, x: Tensor) -> Any:
        loc, log_scale = self.encoder(x).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

    def forward(self, x: Tensor) -> None:
        declare_parameters("guide", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))


def aggregated_pair() -> tuple[Aggregated, Encoded]:
    torch.manual_seed(0)
    guide = Encoded()
    return Aggregated(guide), guide


def test_a_prior_that_calls_the_encoder_of_the_guide() -> None:
    """Its parameters are used in model and guide, and their gradients are the sum of both."""
    model, guide = aggregated_pair()
    assert programs(assert_same(model, guide, parameters(model, guide), [X, X + 1, -X, X])) == 1
    assert model.pseudo_inputs.grad is not None
    assert model.pseudo_inputs.grad.abs().max() > 1e-3


def test_training_with_a_prior_that_calls_the_encoder_of_the_guide() -> None:
    ends = []
    for elbo in (Trace_ELBO(), CompiledTrace_ELBO()):
        pair = aggregated_pair()
        optim = JointAdam([*pair[0].named_parameters("model"), *pair[1].named_parameters("guide")], 0.05)
        svi = SVI(*pair, optim, loss=elbo)
        losses = [svi.step(X + step) for step in range(5)]
        assert pair[1].encoder[1].num_batches_tracked == 10  # twice a step
        ends.append([torch.tensor(losses), *(value for part in pair for value in part.state_dict().values())])
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-4)


def test_an_argument_that_wants_a_gradient_gets_it() -> None:
    pair = simple_pair()
    x = X.clone().requires_grad_()
    assert_same(*pair, [*parameters(*pair), x], [x, x, x])


def test_gradients_are_added_to_those_that_are_there() -> None:
    pair = simple_pair()
    elbo = CompiledTrace_ELBO()
    torch.manual_seed(0)
    elbo.loss_and_grads(*pair, X)
    once = [parameter.grad.clone() for parameter in parameters(*pair) if parameter.grad is not None]
    torch.manual_seed(0)
    elbo.loss_and_grads(*pair, X)
    assert len(once) == 4
    for parameter, grad in zip(parameters(*pair), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * grad)


def store_model(x: Tensor) -> None:
    scale = pyro.param("scale", torch.tensor(0.5), constraint=constraints.positive)
    unused = pyro.param("unused", torch.tensor(0.5))
    assert unused is not None
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)


def store_guide(x: Tensor) -> None:
    loc = pyro.param("loc", torch.full((2,), 0.1))
    spread = pyro.param("spread", torch.full((2,), 0.7), constraint=constraints.interval(0.1, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, spread).to_event(1))


def test_pyro_parameters_and_their_optimizers() -> None:
    """SVI with Pyro's own optimizer finds the parameters of a program, constrained ones too."""
    ends = []
    for elbo in (Trace_ELBO(), CompiledTrace_ELBO()):
        pyro.clear_param_store()
        torch.manual_seed(0)
        svi = SVI(store_model, store_guide, Adam({"lr": 0.05}), loss=elbo)
        losses = [svi.step(X) for _ in range(8)]
        ends.append([torch.tensor(losses), *(pyro.param(name).detach() for name in ("scale", "loc", "spread"))])
    assert ends[1][1] != 0.5
    torch.testing.assert_close(ends[0], ends[1])


def test_a_cleared_parameter_store_asks_for_a_new_program() -> None:
    elbo = CompiledTrace_ELBO()
    for value in (0.5, 0.7):
        pyro.clear_param_store()
        pyro.param("loc", torch.full((2,), value))
        for _ in range(3):
            torch.manual_seed(0)
            loss = elbo.loss(store_model, store_guide, X)
        torch.manual_seed(0)
        assert loss == pytest.approx(Trace_ELBO().loss(store_model, store_guide, X), rel=1e-5)
    assert programs(elbo) == 2


def test_pyro_modules() -> None:
    class Model(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.scale = PyroParam(torch.tensor(0.4), constraint=constraints.positive)
            self.net = PyroModule[nn.Linear](2, 2)

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.net(z), self.scale).to_event(1), obs=x)

    model, net = Model(), nn.Linear(2, 2)

    def guide(x: Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x), 1.0).to_event(1))

    model(X)
    assert_same(model, guide, parameters(model, net), [X, X + 1, -X])


def test_draws_without_reparametrization_keep_their_score_function() -> None:
    rate = nn.Parameter(torch.tensor(0.7))

    class Model(nn.Module):
        def __init__(self, role: str, start: float) -> None:
            super().__init__()
            self.role, self.rate = role, nn.Parameter(torch.tensor(start))

        def forward(self, x: Tensor) -> None:
            declare_parameters(self.role, self)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Poisson(self.rate.exp()).expand([len(x)]))
                if self.role == "model":
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    pair = Model("model", 0.2), Model("guide", 0.5)
    assert_same(*pair, parameters(*pair), [X[:, 0], X[:, 1], X[:, 0]])
    assert rate.grad is None


def test_loss_without_gradients() -> None:
    pair = build("maf", "iaf")
    compiled = CompiledTrace_ELBO()
    for seed in range(3):
        torch.manual_seed(seed)
        loss = Trace_ELBO().loss(*pair, DIGITS[:5])
        torch.manual_seed(seed)
        with torch.no_grad():
            assert compiled.loss(*pair, DIGITS[:5]) == pytest.approx(loss, rel=1e-5)
    assert all(parameter.grad is None for parameter in parameters(*pair))


def test_what_a_module_holds_is_an_input() -> None:
    """New weights, new buffers, frozen parameters and evaluation mode are followed."""
    pair = build("realnvp", "gaussian")
    x = DIGITS[:5]
    leaves = parameters(*pair)
    net = pair.guide.encoder
    fresh = {name: torch.randn_like(value) * 0.1 for name, value in pair.model.decoder.state_dict().items()}

    def change(index: int) -> None:
        if index == 3:
            pair.model.decoder.load_state_dict(fresh)
        if index == 4:
            net[0].center.add_(0.3)
        if index == 5:
            net[0].center = net[0].center + 0.2
        if index == 6:
            pair.model.decoder.requires_grad_(False)
        if index == 9:
            pair.model.decoder[0].weight = nn.Parameter(pair.model.decoder[0].weight * 0.9, requires_grad=False)

    assert programs(assert_same(*pair, leaves, [x] * 12, change)) == 2


def test_masks_that_change_ask_for_a_new_program() -> None:
    """A buffer of truth values may decide shapes, so it is not an input; a change of it is seen all the same."""

    class Chosen(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("mask", torch.tensor([True, False]))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + x[:, self.mask].sum(-1, keepdim=True)

    pair = simple_pair(Chosen())

    def change(index: int) -> None:
        if index == 3:
            pair[1].net.mask.fill_(True)

    assert programs(assert_same(*pair, parameters(*pair), [X] * 6, change)) == 2


def test_dropout_and_batch_norm() -> None:
    """Layers that differ in evaluation, draw random numbers, and write to their buffers."""
    ends = []
    for elbo in (Trace_ELBO(), CompiledTrace_ELBO()):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
        pair = simple_pair(net)
        optim = JointAdam([*pair[0].named_parameters("model"), *pair[1].named_parameters("guide")], 0.05)
        svi = SVI(*pair, optim, loss=elbo)
        losses = [svi.step(X + step) for step in range(6)]
        net.eval()
        losses += [svi.step(X + step) for step in range(4)]
        ends.append([torch.tensor(losses), *net.state_dict().values()])
        assert net[1].num_batches_tracked == 6
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-4)


def test_what_is_not_finite_is_refused() -> None:
    pair = simple_pair()
    elbo = CompiledTrace_ELBO()
    for _ in range(3):
        elbo.loss_and_grads(*pair, X)
    before = [parameter.grad.clone() for parameter in parameters(*pair) if parameter.grad is not None]
    with pytest.raises(NonFiniteError, match="nan"):
        elbo.loss_and_grads(*pair, X * math.nan)
    for parameter, grad in zip(parameters(*pair), before, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


def test_validation_is_pyros_in_the_first_run() -> None:
    def wrong(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Bernoulli(0.5).expand([len(x)]).to_event(1), obs=x + 3)

    def guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="support"):
        CompiledTrace_ELBO().loss_and_grads(wrong, guide, X[:, 0])


def assert_falls_back(match: str, model: Any, guide: Any, *args: Any) -> None:
    """One warning, and from then on what Pyro computes."""
    elbo = CompiledTrace_ELBO()
    with pytest.warns(EagerWarning, match=match) as said:
        losses = [elbo.loss(model, guide, *args) for _ in range(5)]
    assert len(said) == 1
    assert all(map(math.isfinite, losses))
    torch.manual_seed(4)
    loss = Trace_ELBO().loss(model, guide, *args)
    torch.manual_seed(4)
    assert elbo.loss(model, guide, *args) == pytest.approx(loss) or "another" in match


def site(branch: Callable[[Tensor], float]) -> tuple[Any, Any]:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, branch(z)).expand([len(x)]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(0.3, 1.0))

    return model, guide


def test_control_flow_on_values_falls_back() -> None:
    pair = site(lambda z: 1.0 if z > 0 else 2.0)
    assert_falls_back(
        r"depends on the value of a tensor \(aten\._local_scalar_dense.*test_compiled\.py", *pair, X[:, 0]
    )


def test_shapes_of_values_fall_back() -> None:
    pair = site(lambda z: 1.0 + len(torch.nonzero(z > 0)))
    assert_falls_back(r"a shape depends on the value of a tensor \(aten\.nonzero", *pair, X[:, 0])


def test_a_number_that_changes_unseen_is_found_out() -> None:
    numbers = iter(range(1, 100))
    assert_falls_back("gives another loss", *site(lambda z: next(numbers)), X[:, 0])


def test_a_parameter_of_nobody_falls_back() -> None:
    scale = torch.tensor(1.0, requires_grad=True)
    assert_falls_back("requires a gradient", *site(lambda z: scale.exp()), X[:, 0])  # type: ignore[arg-type, return-value]


def test_a_handler_around_the_loss_falls_back() -> None:
    elbo, pair = CompiledTrace_ELBO(), site(lambda z: 1.0)
    with poutine.scale(scale=0.5), pytest.warns(EagerWarning, match="ScaleMessenger is active"):
        elbo.loss(*pair, X[:, 0])
    elbo.loss(*pair, X[:, 0])
    assert programs(elbo) == 1


def test_too_many_programs_fall_back() -> None:
    elbo, pair = CompiledTrace_ELBO(), site(lambda z: 1.0)
    with pytest.warns(EagerWarning, match="32 programs"):
        _ = [elbo.loss(*pair, torch.zeros(size)) for size in range(1, 40)]
    assert programs(elbo) == 32


def test_wrong_modes_are_refused() -> None:
    with pytest.raises(FlowvaeError, match=r"CompiledTrace_ELBO\.compile = 'jit'"):
        CompiledTrace_ELBO(compile="jit")


def test_inductor_without_a_compiler_is_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise CompileError("no C++ compiler found")

    monkeypatch.setattr(capture, "_native", broken)
    pair = simple_pair()
    with pytest.warns(EagerWarning, match="inductor cannot compile .*no C\\+\\+ compiler"):
        elbo = assert_same(*pair, parameters(*pair), [X] * 3, compile="inductor")
    assert programs(elbo) == 1


@needs_compiler
def test_inductor_draws_the_same_random_numbers() -> None:
    pair = simple_pair()
    assert programs(assert_same(*pair, parameters(*pair), [X, X + 1, -X, X], compile="inductor")) == 1


FIT = Training(epochs=5, batch_size=100, checkpoint_seconds=0.0, device="cpu", kl_warmup=2)


def fitted(compile: str, checkpoint: Path | None = None, epochs: int = 5) -> Any:  # noqa: A002
    pair = Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,)), prior=MAF(1, (8,))).build(Digits().load(0))
    settings = replace(FIT, compile=compile, epochs=epochs)
    fit(*pair, DIGITS[:350], DIGITS[350:400], settings, 0, checkpoint, {}, progress=False)
    return pair


def test_fit_ends_where_it_ends_without_compilation() -> None:
    for one, two in zip(fitted("none"), fitted("capture"), strict=True):
        torch.testing.assert_close(one.state_dict(), two.state_dict(), rtol=1e-3, atol=1e-5)


def test_a_compiled_fit_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = fitted("capture", tmp_path / "whole")
    fitted("capture", tmp_path / "part", epochs=3)
    parted = fitted("capture", tmp_path / "part")
    for one, two in zip(whole, parted, strict=True):
        for name, value in one.state_dict().items():
            assert torch.equal(value, two.state_dict()[name]), name


def test_auto_compiles_what_is_long_enough_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Noted(CompiledTrace_ELBO):
        def __init__(self, **settings: Any) -> None:
            made.append("compiled")
            super().__init__(**settings)

    monkeypatch.setattr(sys.modules["flowvae.inference.objectives.elbo"], "CompiledTrace_ELBO", Noted)
    module = sys.modules["flowvae.inference.objectives.annealed_elbo"]
    fitted("auto")
    assert made == []
    monkeypatch.setattr(module, "ENOUGH", 20)  # 5 epochs of 4 steps
    fitted("auto")
    assert made == ["compiled"]
    parts = Branching("model"), Branching("guide")
    fit(*parts, X[:, 0], X[:, 0], replace(FIT, batch_size=1, kl_warmup=0), progress=False)
    assert made == ["compiled"] * 2


class Branching(nn.Module):
    """Model or guide whose scale depends on the value of z."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self.role, self.loc = role, nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> None:
        declare_parameters(self.role, self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0))
            if self.role == "model":
                pyro.sample("x", dist.Normal(z, 1.0 if z.sum() > 0 else 2.0), obs=x)


def test_a_capture_keeps_no_intermediate_value_alive() -> None:
    """Values that autograd does not need are gone when the next is made, as in a step of Pyro's own."""
    alive: list[int] = []

    def model(x: Tensor) -> None:
        with torch.no_grad():
            made = []
            value = x
            for _ in range(50):
                value = value + 1
                made.append(weakref.ref(value))
            alive.append(sum(reference() is not None for reference in made))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z + value.mean(1) - 50.0, 1.0), obs=x.mean(1))

    def guide(x: Tensor) -> None:
        place = pyro.param("place", torch.zeros(()))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(place.expand(len(x)), 1.0))

    losses = {}
    for elbo in (Trace_ELBO(), CompiledTrace_ELBO()):
        pyro.clear_param_store()
        alive.clear()
        losses[type(elbo)] = []
        for seed in range(3):
            torch.manual_seed(seed)
            losses[type(elbo)].append(elbo.loss_and_grads(model, guide, DIGITS[:8].flatten(1)))
        assert set(alive) == {1}
    assert losses[CompiledTrace_ELBO] == pytest.approx(losses[Trace_ELBO], rel=1e-6)
