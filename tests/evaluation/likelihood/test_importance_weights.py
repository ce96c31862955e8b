"""Compiled draws are those of Pyro, from the same random numbers, and what cannot be compiled says so."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_pairs import TwoLevels
from torch import Tensor

from flowvae import IAF, MAF, NSF, Digits, Experiment, FlowGuide, FlowvaeError, Mixture, SemiAmortized
from flowvae.cli.command import main
from flowvae.data import Batch
from flowvae.evaluation import importance_draws, measure_iwae, measure_likelihoods
from flowvae.experiments.assemble import ModelGuide
from flowvae.inference import Training
from flowvae.inference.compile import replay
from flowvae.networks import MLP

BASE = Experiment(latent=3, encoder=MLP((8,)), decoder=MLP((8,)), inference=Training(epochs=1, device="cpu"))
PARTS = {
    "normal": BASE,
    "mixture": replace(BASE, prior=Mixture(3)),
    "maf": replace(BASE, prior=MAF(2, (8,))),
    "nsf-iaf": replace(BASE, prior=NSF(2, (8,)), guide=FlowGuide(IAF(2, (8,)))),
    "semi-amortized": replace(BASE, guide=SemiAmortized(steps=2)),
}
X = Digits().load(0).test[:130]  # two blocks and two data


@pytest.fixture(autouse=True)
def _captured_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "CALLS", 1)


def built(experiment: Experiment) -> ModelGuide:
    """The pair, away from where it begins."""
    pair = experiment.build(Digits().load(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in [p for part in pair for p in part.parameters()]:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return pair


@pytest.mark.parametrize("name", PARTS)
def test_captured_draws_are_the_draws(name: str) -> None:
    pair = built(PARTS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captured = list(importance_draws(*pair, X, 600, seed=3, compile="capture"))
    plain = list(importance_draws(*pair, X, 600, seed=3, compile="none"))
    assert [len(block.log_weight[0]) for block in captured] == [64, 64, 2]
    for ours, theirs in zip(captured, plain, strict=True):
        for part in ("code", "log_likelihood", "log_prior", "log_guide"):
            torch.testing.assert_close(getattr(ours, part), getattr(theirs, part), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("draws", [0, 1.5, True, "10", None], ids=str)
def test_draws_are_a_whole_number(draws: object) -> None:
    pair = built(BASE)
    with pytest.raises(FlowvaeError, match=r"draws = "):
        measure_likelihoods(*pair, X, draws)  # type: ignore[arg-type]
    with pytest.raises(FlowvaeError, match=r"draws = "):
        next(importance_draws(*pair, X, draws, seed=0))  # type: ignore[arg-type]


@pytest.mark.skipif("FLOWVAE_INDUCTOR" not in os.environ, reason="needs a C++ compiler and half a minute")
def test_inductor_gives_the_same_bound() -> None:
    pair = built(PARTS["maf"])
    compiled = measure_iwae(*pair, X[:64], (1, 200), compile="inductor")
    plain = measure_iwae(*pair, X[:64], (1, 200), compile="none")
    torch.testing.assert_close(compiled.bound, plain.bound, rtol=1e-4, atol=1e-3)


def test_another_word_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = BASE.run(tmp_path / "run", draws=10, figures=False, progress=False)
    with pytest.raises(FlowvaeError, match=r"compile = 'inductr': did you mean inductor"):
        run.evaluate(compile="inductr")
    with pytest.raises(FlowvaeError, match=r"compile = 'jit'"):
        next(importance_draws(*run.pair, X, 10, seed=0, compile="jit"))
    before = run.metric("nll").value
    assert main(["evaluate", str(run.directory), "--draws", "10", "--compile", "none"]) == 0
    assert "nll" in capsys.readouterr().out
    assert run.metric("nll").value == pytest.approx(before, rel=1e-5)


@pytest.mark.usefixtures("float64")
def test_captured_draws_of_several_sites() -> None:
    pair = TwoLevels((1, 2, 2), shift=0.2)
    x = pair.data(64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (captured,) = importance_draws(pair.model, pair.guide, x, 300, seed=1, compile="capture")
    (plain,) = importance_draws(pair.model, pair.guide, x, 300, seed=1, compile="none")
    assert {name: value.shape for name, value in captured.latents.items()} == {
        "below": (300, 64, 3),
        "top": (300, 64, 2),
    }
    torch.testing.assert_close(captured.log_weight, plain.log_weight)
    torch.testing.assert_close(captured.latents, plain.latents)


def test_discrete_values_keep_their_type() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(k.unsqueeze(-1).float(), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(dist.Normal(torch.arange(3.0), 1.0).log_prob(x).exp()))

    x = torch.linspace(-1, 3, 5).unsqueeze(1)
    (block,) = importance_draws(model, guide, x, 20, seed=0)
    assert block.code.dtype == torch.int64
    truth = dist.Normal(torch.arange(3.0), 1.0).log_prob(x).logsumexp(1) - math.log(3)
    torch.testing.assert_close(block.log_weight, truth.expand(20, 5))  # the guide is the exact posterior


def test_a_guide_that_takes_draws_for_data_is_refused() -> None:
    """A batch normalization over as many channels as there are data in a block."""
    layer = torch.nn.BatchNorm1d(64)
    layer.running_mean = torch.randn(64)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(64), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(a, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(b, 1.0).to_event(1), obs=x)

    class Guide(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                b = pyro.sample("b", dist.Normal(x, 1.0).to_event(1))
                pyro.sample("a", dist.Normal(self.layer(b), 1.0).to_event(1))

    x = torch.randn(64, 64)
    with pytest.raises(FlowvaeError, match=r"x\[\d+\].* 3 draws.*alone"):
        next(importance_draws(model, Guide(), x, 3, seed=0))
    assert next(importance_draws(model, Guide(), x, 1, seed=0)).log_weight.isfinite().all()


class Stored:
    """Data that are not in memory."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.shape, self.dtype, self.largest = x, x.shape, x.dtype, 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor) -> Tensor:
        self.largest = max(self.largest, len(index))
        return self.x[index]

    def batches(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        return (self[index] for index in order)


def test_a_source_is_read_block_by_block() -> None:
    pair = built(BASE)
    stored = Stored(X)
    result = measure_likelihoods(*pair, Batch(stored), 20)
    assert torch.equal(result.log_evidence, measure_likelihoods(*pair, X, 20).log_evidence)
    assert stored.largest == 64


@pytest.mark.parametrize(
    "x", [X[0], X[:0], X.tolist(), X.long(), X[..., :5]], ids=["1-d", "empty", "list", "int", "narrow"]
)
def test_what_are_not_data_are_refused(x: Any) -> None:
    with pytest.raises(FlowvaeError, match=r"x"):
        next(importance_draws(*built(BASE), x, 3, seed=0))


def test_as_many_conditions_as_data() -> None:
    with pytest.raises(FlowvaeError, match=r"c: 3 conditions for 130"):
        next(importance_draws(*built(BASE), Batch(X, X[:3]), 3, seed=0))
