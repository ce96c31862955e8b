"""The training loop: the same steps as Pyro's, annealing, early stopping, and what stops it."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import AdamW
from torch import Tensor, nn

from flowvae import MAF, Digits, Experiment, FlowvaeError, Training
from flowvae.core.seeds import derive, seeded
from flowvae.data import Dataset
from flowvae.experiments.assemble import ModelGuide, build
from flowvae.inference import (
    Fitted,
    JointAdam,
    Ramp,
    TrainingStopped,
    fit,
    load_checkpoint,
    temper,
    weigh_latent,
)
from flowvae.networks import MLP, declare_parameters

FAST = Training(epochs=3, batch_size=100, clip=None, checkpoint_seconds=0.0, device="cpu")
SMALL = Experiment(latent=3, encoder=MLP((16,)), decoder=MLP((16,)), prior=MAF(2, (8,)), inference=FAST)


def data() -> Dataset:
    whole = Digits().load(0)
    return replace(whole, train=whole.train[:350], valid=whole.valid[:50], labels=None)


def train(settings: Training, seed: int = 0, checkpoint: Path | None = None) -> tuple[ModelGuide, Fitted]:
    digits = data()
    vae = build(SMALL, digits)
    fitted = fit(
        vae.model,
        vae.guide,
        digits.train,
        digits.valid,
        settings,
        seed,
        checkpoint,
        {"is": 1},
        progress=False,
    )
    return vae, fitted


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_fit_takes_the_steps_of_plain_svi() -> None:
    """Pyro's SVI with Pyro's own optimizer, on the same batches and noise, ends at the same parameters."""
    digits = data()
    ours, _ = train(replace(FAST, epochs=2, patience=10))
    # the best weights are kept; with two epochs of early training the last ones are the best
    vae = build(SMALL, digits)
    optim = AdamW({"lr": FAST.learning_rate, "weight_decay": 0.0})
    mean = poutine.scale(scale=1 / FAST.batch_size)
    svi = SVI(mean(vae.model), mean(vae.guide), optim, loss=Trace_ELBO())
    for epoch in range(2):
        generator = torch.Generator().manual_seed(derive(0, "order", epoch))
        order = torch.randperm(len(digits.train), generator=generator)
        with seeded(derive(0, "noise", epoch)):
            for batch in order.split(FAST.batch_size):
                svi.step(digits.train[batch])
    for part, other in zip(ours, vae, strict=True):
        for (name, one), two in zip(part.named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_the_same_seed_gives_the_same_weights() -> None:
    one, _ = train(FAST)
    two, _ = train(FAST)
    other, _ = train(FAST, seed=1)
    assert torch.equal(one.model.decoder[0].weight, two.model.decoder[0].weight)
    assert not torch.equal(one.model.decoder[0].weight, other.model.decoder[0].weight)


def test_history_and_best_weights(tmp_path: Path) -> None:
    vae, fitted = train(replace(FAST, epochs=4), checkpoint=tmp_path / "c")
    history = fitted.history
    assert list(history["epoch"]) == [0, 1, 2, 3]
    assert history["valid_elbo"].idxmax() == fitted.best_epoch
    assert (history["seconds"] > 0).all()
    tensors, facts = load_checkpoint(tmp_path / "c")
    assert facts["settings"] == {"is": 1}
    for name, value in vae.model.state_dict().items():
        assert torch.equal(value, tensors[f"best/model.{name}"])


def test_patience_stops_the_training_and_keeps_the_best() -> None:
    _, fitted = train(replace(FAST, epochs=40, learning_rate=0.3, patience=3, clip=1.0))
    assert len(fitted.history) < 40
    assert len(fitted.history) == fitted.best_epoch + 1 + 3


class _Worsens(nn.Module):
    """A model whose validation ELBO falls by 100 nats an epoch; gradients are off in validation, and only there."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))
        self.validations = 0

    def forward(self, x: Tensor, size: int | None = None) -> None:
        declare_parameters("model", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
            if not torch.is_grad_enabled():
                self.validations += 1
            pyro.factor("fall", torch.tensor(-100.0 * self.validations))


@pytest.mark.parametrize(("warmup", "weight"), [(0, 1.0), (3, 1.0), (2, 0.5)])
def test_nothing_is_best_before_the_warm_up_is_over(warmup: int, weight: float) -> None:
    """The epoch at whose end the weight is reached is the first that may be best, and patience counts from there."""
    x = torch.randn(40, 2)
    settings = replace(FAST, epochs=8, kl_warmup=warmup, kl_weight=weight, patience=1, batch_size=10)
    fitted = fit(_Worsens(), _Simple(), x, x, settings, progress=False)
    history = fitted.history
    assert (history["valid_elbo"].diff().dropna() < -90).all()
    assert fitted.best_epoch == max(warmup - 1, 0)
    assert len(history) == fitted.best_epoch + 2
    ramp = [weight * min(1.0, epoch / warmup) if warmup else weight for epoch in history["epoch"]]
    assert list(history["weight"]) == pytest.approx(ramp)


@pytest.mark.parametrize("weight", [0.3, 3.0])
def test_a_kl_weight_is_the_weight_of_the_kl_in_every_step_and_in_validation(weight: float) -> None:
    """Against torch's own optimizer on E_q[log p(x|z) + β (log p(z) − log q(z|x))], written without Pyro."""
    digits = data()
    settings = replace(FAST, epochs=1, validation_draws=1, weight_decay=0.01)
    ours, fitted = train(replace(settings, kl_weight=weight))
    model, guide = build(SMALL, digits)

    def objective(x: Tensor) -> Tensor:
        posterior = guide.posterior(x)
        z = posterior.rsample()
        kl = posterior.log_prob(z) - model.prior().log_prob(z)
        return model.decode(z).log_prob(x) - weight * kl

    no_decay = [p for n, p in model.named_parameters() if n.startswith("prior.")]
    others = [p for n, p in model.named_parameters() if not n.startswith("prior.")] + list(guide.parameters())
    groups = [{"params": no_decay, "weight_decay": 0.0}, {"params": others, "weight_decay": 0.01}]
    adam = torch.optim.AdamW(groups, lr=FAST.learning_rate)
    order = torch.randperm(len(digits.train), generator=torch.Generator().manual_seed(derive(0, "order", 0)))
    with seeded(derive(0, "noise", 0)):
        for batch in order.split(FAST.batch_size):
            adam.zero_grad()
            (-objective(digits.train[batch]).sum() / FAST.batch_size).backward()
            adam.step()
    for part, other in zip(ours, (model, guide), strict=True):
        for one, two in zip(part.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    with seeded(derive(0, "validation")), torch.no_grad():
        assert fitted.history["valid_elbo"].iloc[0] == pytest.approx(objective(digits.valid).mean().item(), rel=1e-5)


def test_clipping_bounds_the_whole_gradient() -> None:
    """The first Adam step does not depend on the gradient's length; plain SGD through the same clip does."""
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(4))]
    optim = JointAdam([("a", parameters[0]), ("b", parameters[1])], learning_rate=0.1, clip=2.0)
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 5.0)
    gradients = [p.grad for p in parameters if p.grad is not None]
    optim(parameters)
    assert math.sqrt(sum(g.square().sum().item() for g in gradients)) == pytest.approx(2.0, rel=1e-4)
    # they are gone, so that they neither add to those of the next step nor move a parameter that has none there
    assert all(p.grad is None for p in parameters)


class _Breaks(nn.Module):
    """A model whose log-density becomes NaN in its third step."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))
        self.value = value
        self.calls = 0

    def forward(self, x: Tensor, size: int | None = None) -> None:
        declare_parameters("model", self)
        self.calls += 1
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
            if self.calls == 3:
                z = z * self.value
            pyro.sample("x", dist.Normal(z, 1.0, validate_args=False).to_event(1), obs=x)


class _Simple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor, size: int | None = None) -> None:
        declare_parameters("guide", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_step(value: float, tmp_path: Path) -> None:
    model, guide = _Breaks(value), _Simple()
    x = torch.randn(40, 2)
    settings = replace(FAST, batch_size=10)
    with pytest.raises(TrainingStopped, match=r"epoch 0, batch 2: .*learning_rate"):
        fit(model, guide, x, x, settings, checkpoint=tmp_path / "c", progress=False)
    assert torch.isfinite(model.loc).all()
    # the two good steps were taken and the third was not
    assert model.calls == 3
    assert model.loc.abs().max() < 0.0021


class _Root(nn.Module):
    """A model with √(scale · |x_1|): at x_1 = 0 the density is finite, and its gradient is 0 · ∞."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, size: int | None = None) -> None:
        declare_parameters("model", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            root = (self.scale * x[:, :1].abs()).sqrt()
            pyro.sample("x", dist.Normal(z + root, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("compiled", ["none", "capture"])
def test_a_gradient_that_is_not_finite_stops_before_the_step(compiled: str) -> None:
    model, guide = _Root(), _Simple()
    x = 1 + torch.rand(200, 2)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(derive(0, "order", 0)))
    x[order[75], 0] = 0.0  # comes in the eighth batch
    settings = replace(FAST, batch_size=10, compile=compiled)
    with pytest.raises(TrainingStopped, match=r"epoch 0, batch 7: the norm of the gradient is nan; .*no checkpoint"):
        fit(model, guide, x, x, settings, progress=False)
    assert torch.isfinite(model.scale)
    assert torch.isfinite(guide.loc).all()
    # Adam moves by about the learning rate a step: seven were taken
    assert 0 < (model.scale - 1).abs() < 7.5 * settings.learning_rate


def test_a_training_that_stopped_names_a_checkpoint_that_exists(tmp_path: Path) -> None:
    x, file = torch.randn(40, 2), tmp_path / "c"
    settings = replace(FAST, batch_size=10)

    def stopped(checkpoint: Path | None) -> str:
        with pytest.raises(TrainingStopped) as caught:
            fit(_Breaks(math.nan), _Simple(), x, x, settings, checkpoint=checkpoint, progress=False)
        return str(caught.value)

    assert "no checkpoint was asked for" in stopped(None)
    assert "another directory" not in stopped(None)
    assert "there is no checkpoint yet" in stopped(file)
    assert str(file) not in stopped(file)
    # other settings cannot go on from a checkpoint
    assert "into another directory or with --overwrite" in stopped(file)
    model = _Breaks(math.nan)
    model.calls = 10  # beyond the call that breaks
    fit(model, _Simple(), x, x, replace(settings, epochs=1), checkpoint=file, progress=False)
    assert f"the last checkpoint is {file}" in stopped(file)


def test_weigh_latent_scales_the_kl_and_temper_the_joint() -> None:
    digits = data()
    vae = build(SMALL, digits)
    x = digits.train[:20]

    def terms(model: object, guide: object) -> tuple[Tensor, Tensor, Tensor]:
        torch.manual_seed(4)
        guide_trace = poutine.trace(guide).get_trace(x)
        trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x)
        guide_trace.compute_log_prob()
        trace.compute_log_prob()
        sites = trace.nodes["x"], trace.nodes["z"], guide_trace.nodes["z"]
        return tuple(site["log_prob_sum"] for site in sites)  # type: ignore[return-value]

    ramp = Ramp(steps=10, start=0.0)
    ramp.step = 3
    likelihood, prior, posterior = terms(vae.model, vae.guide)
    warm = terms(weigh_latent(vae.model, ramp), weigh_latent(vae.guide, ramp))
    torch.testing.assert_close(torch.stack(warm), torch.stack((likelihood, 0.3 * prior, 0.3 * posterior)))
    cold = terms(temper(vae.model, ramp), vae.guide)
    torch.testing.assert_close(torch.stack(cold), torch.stack((0.3 * likelihood, 0.3 * prior, posterior)))
    ramp.step = 10  # the weight is asked for at every run, not once
    torch.testing.assert_close(torch.stack(terms(temper(vae.model, ramp), vae.guide))[0], likelihood)


def test_tempering_follows_rezende_and_mohamed() -> None:
    ramp = Ramp(steps=100, start=0.01)
    values = []
    for ramp.step in (0, 50, 100, 1000):
        values.append(ramp())
    assert values == pytest.approx([0.01, 0.505, 1.0, 1.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_warmup": 10, "epochs": 10}, "would never end"),
        ({"kl_warmup": 1, "tempering": 1}, "two different annealings"),
        ({"kl_weight": 0.0}, "kl_weight = 0.0"),
        ({"kl_weight": 0.5, "tempering": 1}, "no annealed joint"),
        ({"learning_rate": 0}, "learning_rate = 0"),
        ({"learning_rate": math.nan}, "learning_rate = nan"),
        ({"epochs": 0}, "epochs = 0"),
        ({"epochs": True}, "epochs = True"),
        ({"clip": -1.0}, "clip"),
        ({"prior_decay": -1.0}, r"prior_decay = -1\.0: .* 0 or more"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(FlowvaeError, match=message):
        Training(**settings)  # type: ignore[arg-type]


def test_a_tempering_longer_than_the_training_is_refused() -> None:
    with pytest.raises(FlowvaeError, match="12 steps"):
        train(replace(FAST, tempering=12))


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(FlowvaeError, match="device = 'abacus'"):
        train(replace(FAST, device="abacus"))


def test_going_on_from_a_checkpoint_is_bit_exact(tmp_path: Path) -> None:
    whole, fitted = train(replace(FAST, epochs=6), checkpoint=tmp_path / "whole")
    train(replace(FAST, epochs=2), checkpoint=tmp_path / "part")
    parted, again = train(replace(FAST, epochs=6), checkpoint=tmp_path / "part")
    for part, other in zip(whole, parted, strict=True):
        for name, value in part.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
    columns = ["epoch", "train_elbo", "valid_elbo", "weight"]
    assert fitted.history[columns].equals(again.history[columns])
    one, _ = load_checkpoint(tmp_path / "whole")
    two, _ = load_checkpoint(tmp_path / "part")
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


def test_another_experiment_does_not_go_on_from_it(tmp_path: Path) -> None:
    digits = data()
    train(FAST, checkpoint=tmp_path / "c")
    vae = build(SMALL, digits)
    with pytest.raises(FlowvaeError, match="other settings"):
        fit(
            vae.model,
            vae.guide,
            digits.train,
            digits.valid,
            FAST,
            0,
            tmp_path / "c",
            {"is": 2},
            progress=False,
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_a_gpu() -> None:
    vae, fitted = train(replace(FAST, device="cuda"))
    assert next(vae.model.parameters()).device.type == "cuda"
    assert math.isfinite(fitted.history["valid_elbo"].iloc[-1])  # type: ignore[attr-defined]


def test_a_model_keeps_no_copy_of_what_was_trained() -> None:
    vae, _ = train(FAST)
    assert copy.deepcopy(vae.model).state_dict().keys() == vae.model.state_dict().keys()


@pytest.mark.parametrize("left", [1.0, math.nan])
def test_gradients_that_others_left_take_no_part(left: float) -> None:
    """After a training that stopped they are NaN, and its advice is to train again more slowly."""
    x = torch.randn(40, 2)
    clean, stained = _Sized(2), _Sized(2)
    stained.scale.grad = torch.full((2,), left)
    for model in (clean, stained):
        fit(model, _Simple(), x, x, replace(FAST, compile="none"), progress=False)
    assert torch.equal(clean.scale, stained.scale)


class _Undeclared(nn.Module):
    """x ~ N(loc, I), with parameters that no `param` statement names."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor, size: int | None = None) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.loc, 1.0).to_event(1), obs=x)


class _Nothing(nn.Module):
    def forward(self, x: Tensor, size: int | None = None) -> None:
        """Draw nothing."""


@pytest.mark.parametrize("mode", ["none", "capture"])
def test_parameters_that_are_not_declared_take_the_same_steps(mode: str) -> None:
    """Neither without a gradient, nor with the sum of those of all earlier steps: as Adam on the closed form."""
    x = torch.randn(120, 2, generator=torch.Generator().manual_seed(0)) + 3
    model, loc = _Undeclared(), nn.Parameter(torch.zeros(2))
    settings = replace(FAST, epochs=4, batch_size=40, learning_rate=0.1, compile=mode)
    fit(model, _Nothing(), x, x, settings, progress=False)
    adam = torch.optim.Adam([loc], lr=0.1)
    for epoch in range(4):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(derive(0, "order", epoch)))
        for rows in order.split(40):
            loc.grad = loc.detach() - x[rows].mean(0)
            adam.step()
    torch.testing.assert_close(model.loc, loc, rtol=1e-5, atol=1e-6)


def test_facts_are_compared_as_the_file_has_them(tmp_path: Path) -> None:
    x = torch.randn(40, 2)
    for _ in range(2):
        fit(_Sized(2), _Simple(), x, x, FAST, checkpoint=tmp_path / "c", facts={"layers": (8, 8)}, progress=False)
    with pytest.raises(FlowvaeError, match="holds another model or guide"):
        fit(_Sized(3), _Simple(), x, x, FAST, checkpoint=tmp_path / "c", facts={"layers": (8, 8)}, progress=False)


class _Sized(nn.Module):
    """A model with a parameter of that size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor, size: int | None = None) -> None:
        declare_parameters("model", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, self.scale.mean().exp()).to_event(1), obs=x)
