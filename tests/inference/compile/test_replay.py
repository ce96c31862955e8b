"""Captured functions give what the functions give, and what cannot be captured is called."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from flowvae.inference import EagerWarning, Replay
from flowvae.inference.compile import replay as module
from flowvae.inference.compile.native import NativeProgram


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALLS", 1)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_replay_follows_its_parameters_and_draws_anew() -> None:
    layer = torch.nn.Linear(2, 2)
    replay = Replay(lambda x: layer(x) + torch.randn(4, 2))
    x = noise(4, 2)
    for seed in range(4):
        with torch.no_grad():
            layer.weight.add_(1.0)
        values = []
        for function in (replay, replay.function):
            torch.manual_seed(seed)
            values.append(function(x).detach())
        torch.testing.assert_close(*values)
    assert replay.programs
    wider = noise(7, 2)
    with pytest.raises(RuntimeError, match="size"):  # the function's own, whose noise has four rows
        replay(wider)


def test_a_shape_is_captured_when_it_comes_again() -> None:
    calls: list[int] = []

    def function(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x.square()

    replay = Replay(function)
    for rows in (3, 3, 3, 5, 3, 5, 5, 7):
        x = noise(rows, 2)
        assert torch.equal(replay(x), x.square())
    # its own call, then capture and control, for each shape that comes again
    assert calls == [3, 3, 3, 5, 5, 5, 7]


def test_a_function_may_differentiate() -> None:
    layer = torch.nn.Linear(2, 1)

    @torch.enable_grad()
    def slope(z: Tensor) -> Tensor:
        z = z.detach().requires_grad_()
        return torch.autograd.grad(layer(z).square().sum(), z)[0]

    replay = Replay(slope)
    for seed in range(3):
        z = torch.randn(4, 2, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(replay(z), (2 * layer(z) @ layer.weight).detach())
    assert replay.programs
    assert layer.weight.grad is None


def counted() -> Callable[[Tensor], Tensor]:
    """What Python counts from call to call would stand still in a program."""
    calls = itertools.count()
    return lambda x: x + next(calls)


def branched() -> Callable[[Tensor], Tensor]:
    return lambda x: 2 * x if x.sum() > 0 else -x


@pytest.mark.parametrize("made", [counted, branched])
def test_what_is_no_program_of_its_argument_is_called(made: Callable[[], Callable[[Tensor], Tensor]]) -> None:
    replay = Replay(made())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is lost but a part of the gain
        found = [replay(sign * torch.ones(3)) for sign in (1, 1, 1, -1)]
    assert replay.eager
    expected = [2, 2, 2, 1] if made is branched else None
    if expected is None:
        assert (found[2] - found[1] == 1).all()
    else:
        assert [value[0].item() for value in found] == expected


def test_a_failed_compilation_that_was_asked_for_is_told() -> None:
    replay = Replay(branched(), "inductor")
    replay(torch.ones(3))
    with pytest.warns(EagerWarning, match="depends on the value") as warned:
        replay(torch.ones(3))
    replay(torch.ones(3))
    assert len(warned) == 1


def test_a_library_that_cannot_be_loaded_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(NativeProgram, "ready", True)  # as if there were a file, which is none
    replay, x = Replay(torch.exp, "inductor"), noise(3)
    replay(x)
    with pytest.warns(EagerWarning, match="cannot be loaded"):
        torch.testing.assert_close(replay(x), x.exp())


@pytest.mark.parametrize("read", [lambda x: x.numpy().min(), lambda x: min(x.tolist()), lambda x: np.asarray(x).min()])
def test_values_that_are_read_outside_of_torch_are_no_constants(read: Callable[[Tensor], float]) -> None:
    replay = Replay(lambda x: x * 2 if read(x) > 0 else x * 3)
    for _ in range(3):
        replay(torch.ones(3))
    assert torch.equal(replay(-torch.ones(3)), torch.full((3,), -3.0))
