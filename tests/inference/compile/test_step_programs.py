"""Trainings that switch from captured to compiled steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pair_cases import Interpreted, needs_compiler
from torch import Tensor, nn

from flowvae import MAF, Digits, Experiment, Training
from flowvae.inference import Fitted, TrainingStopped, fit, load_checkpoint
from flowvae.inference.compile import native, training_step
from flowvae.inference.compile.native import CompileError
from flowvae.inference.objectives import annealed_elbo
from flowvae.networks import MLP, declare_parameters

DIGITS = Digits().load(0)
TRAIN, VALID = DIGITS.train[:350], DIGITS.valid[:50]
SETTINGS = Training(epochs=8, batch_size=100, checkpoint_seconds=0.0, device="cpu", kl_warmup=2)


class KilledError(Exception):
    """A training was killed."""


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> type[Interpreted]:
    monkeypatch.setattr(training_step, "NativeProgram", Interpreted)
    monkeypatch.setattr(annealed_elbo, "ENOUGH", 1)
    monkeypatch.setattr(annealed_elbo, "MANY", 1)
    monkeypatch.setattr(Interpreted, "on_disk", False)
    return Interpreted


def pair() -> Any:
    return Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,)), prior=MAF(1, (8,))).build(DIGITS)


def train(
    settings: Training,
    checkpoint: Path | None = None,
    ready: int | None = None,
    killed: int | None = None,
    rows: int = 350,
) -> tuple[Any, Fitted]:
    """Train; machine code is ready after the epoch `ready`, and the process is killed after the epoch `killed`."""
    made = pair()

    def happen(row: dict[str, float]) -> None:
        if row["epoch"] == ready:
            Interpreted.on_disk = True
        if row["epoch"] == killed:
            raise KilledError

    return made, fit(*made, TRAIN, VALID, settings, 0, checkpoint, progress=False, callbacks=[happen])


def state(made: Any) -> dict[str, Tensor]:
    return {f"{n}/{name}": value for n, part in enumerate(made) for name, value in part.state_dict().items()}


def equal(one: Any, other: Any) -> bool:
    return all(torch.equal(value, state(other)[name]) for name, value in state(one).items())


def test_steps_are_captured_until_machine_code_is_ready(interpreted: type[Interpreted], tmp_path: Path) -> None:
    captured, one = train(replace(SETTINGS, compile="capture"))
    never, two = train(SETTINGS, tmp_path / "never")
    switched, three = train(SETTINGS, tmp_path / "switched", ready=2)
    assert equal(captured, never)
    assert load_checkpoint(tmp_path / "never")[1]["progress"]["compiled_since"] is None
    assert load_checkpoint(tmp_path / "switched")[1]["progress"]["compiled_since"] == 3
    elbos = [fitted.history["train_elbo"] for fitted in (one, two, three)]
    assert elbos[0].equals(elbos[1])
    assert elbos[0][:3].equals(elbos[2][:3])
    assert not elbos[0].equals(elbos[2])
    assert elbos[2].tolist() == pytest.approx(elbos[0].tolist(), rel=1e-5)
    # 350 rows leave a batch of 50, which has a program of its own; afterwards every parameter has memory of its own
    for parameter in switched.model.parameters():
        assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()


@pytest.mark.parametrize("seconds", [0.0, 1e9], ids=["every epoch", "at the switch"])
@pytest.mark.parametrize("killed", [1, 3, 5])
def test_a_killed_training_continues_bit_for_bit(
    seconds: float, killed: int, interpreted: type[Interpreted], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, checkpoint_seconds=seconds)
    whole, fitted = train(settings, tmp_path / "whole", ready=2)
    interpreted.on_disk = False
    with pytest.raises(KilledError):
        train(settings, tmp_path / "part", ready=2, killed=killed)
    parted, again = train(settings, tmp_path / "part", ready=2)
    assert equal(whole, parted)
    columns = ["epoch", "train_elbo", "valid_elbo", "weight"]
    assert fitted.history[columns].equals(again.history[columns])
    records = [load_checkpoint(tmp_path / name)[1]["progress"]["compiled_since"] for name in ("whole", "part")]
    assert records == [3, 3]


def test_compiled_from_the_start(interpreted: type[Interpreted], tmp_path: Path) -> None:
    settings = replace(SETTINGS, compile="inductor")
    whole, _ = train(settings)
    with pytest.raises(KilledError):
        train(settings, tmp_path / "part", killed=4)
    parted, _ = train(settings, tmp_path / "part")
    assert equal(whole, parted)
    assert load_checkpoint(tmp_path / "part")[1]["progress"]["compiled_since"] == 0


def test_without_a_compiler_a_training_continues_and_says_what_that_means(
    interpreted: type[Interpreted], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fitted = train(replace(SETTINGS, epochs=4), tmp_path / "c", ready=0)

    def broken(self: object) -> None:
        raise CompileError("no C++ compiler")

    monkeypatch.setattr(interpreted, "wait", broken)
    with pytest.warns(UserWarning, match=r"up to rounding.*no C\+\+ compiler"):
        _, again = train(SETTINGS, tmp_path / "c")
    assert again.history["train_elbo"][:4].equals(fitted.history["train_elbo"])
    assert len(again.history) == 8


def test_a_program_with_other_results_is_never_used(
    interpreted: type[Interpreted], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self: Interpreted, *inputs: Tensor) -> list[Tensor]:
        loss, norm = self.graph(*inputs)
        return [loss + 1, norm]

    captured, _ = train(replace(SETTINGS, compile="capture"))
    monkeypatch.setattr(interpreted, "__call__", wrong)
    again, _ = train(SETTINGS, ready=1)
    assert equal(captured, again)


def test_a_loss_that_is_not_finite_stops_a_compiled_training(interpreted: type[Interpreted], tmp_path: Path) -> None:
    made = pair()

    def spoil(row: dict[str, float]) -> None:
        interpreted.on_disk = True
        if row["epoch"] == 3:
            next(made.model.decoder.parameters()).data[0] = torch.nan

    with pytest.raises(TrainingStopped, match="epoch 4, batch 0"):
        fit(*made, TRAIN, VALID, SETTINGS, 0, tmp_path / "c", progress=False, callbacks=[spoil])


def test_parameters_that_a_callback_freezes_get_a_new_program(interpreted: type[Interpreted]) -> None:
    ends = []
    for settings in (replace(SETTINGS, compile="none"), SETTINGS):
        made = pair()

        def freeze(row: dict[str, float], made: Any = made) -> None:
            interpreted.on_disk = True
            if row["epoch"] == 3:
                made.model.decoder.requires_grad_(False)

        fit(*made, TRAIN, VALID, settings, 0, progress=False, callbacks=[freeze])
        ends.append(state(made))
        interpreted.on_disk = False
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-3, atol=1e-4, msg=name)


@needs_compiler
@pytest.mark.usefixtures("float64")
def test_machine_code_trains_as_pyro_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ends = []
    double = replace(DIGITS, train=DIGITS.train.double(), valid=DIGITS.valid.double(), test=DIGITS.test.double())
    for mode in ("none", "inductor"):
        parts = Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,)), prior=MAF(1, (8,))).build(double)
        made = nn.ModuleDict(dict(zip(("model", "guide"), parts, strict=True)))
        fit(*made.values(), TRAIN[:300].double(), VALID.double(), replace(SETTINGS, compile=mode), progress=False)
        ends.append(made.state_dict())
    assert len(list(native.program_cache().glob("*.so"))) == 1
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-7, atol=1e-9)


class _Odd(nn.Module):
    """z ~ N(0, 1), x ~ N(w z, 1); a batch of 50 rows has a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.5))
        self.extra = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor) -> None:
        declare_parameters("model", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            loc = self.w * z + (self.extra if len(x) == 50 else 0.0)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


class _Line(nn.Module):
    """q(z | x) = N(linear, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)
        nn.init.constant_(self.net.weight, 0.3)
        nn.init.zeros_(self.net.bias)

    def forward(self, x: Tensor) -> None:
        declare_parameters("guide", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))


@pytest.mark.parametrize("ready", [0, None])
def test_a_batch_with_other_parameters_takes_captured_steps(ready: int | None, interpreted: type[Interpreted]) -> None:
    x = torch.randn(350, 1, generator=torch.Generator().manual_seed(3))
    ends = []
    for mode in ("none", "auto"):
        made = nn.ModuleDict({"model": _Odd(), "guide": _Line()})

        def happen(row: dict[str, float]) -> None:
            interpreted.on_disk = row["epoch"] == ready or interpreted.on_disk

        settings = replace(SETTINGS, compile=mode)
        fit(*made.values(), x, x[:50], settings, 0, progress=False, callbacks=[happen])
        ends.append(made.state_dict())
        interpreted.on_disk = False
    for name, value in ends[0].items():
        torch.testing.assert_close(
            ends[1][name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
