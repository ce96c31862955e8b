"""The examples of docs/examples: each is written outside the package, trains, is named in YAML and opens elsewhere."""

from __future__ import annotations

import importlib
import runpy
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers import HANGS
from torch import nn
from zuko.lazy import LazyDistribution

from flowvae import MLP, Condition, Experiment, FlowvaeError, SecondStage, Training, load, train
from flowvae.data import Arrays
from flowvae.evaluation import MEASURES, AnnealedHMC, Effort, measure_ais, measure_likelihoods
from flowvae.experiments.run import MeasurementError

FOLDER = Path(__file__).parents[1] / "docs" / "examples"
QUICK = Training(epochs=1, batch_size=128, device="cpu")
TINY = Effort(rows=2, refinement=5, tempering=AnnealedHMC(chains=2, temperatures=2, leapfrog=2))
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
TRAINED = [name for name in NAMES if name not in ("local_latents", "own_pair", "self_supervised")]


@pytest.fixture(autouse=True)
def _examples_are_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWVAE_CACHE", str(tmp_path / "cache"))


def example(name: str) -> ModuleType:
    sys.modules.pop(name, None)  # every test starts with the parts of the package alone
    return importlib.import_module(name)


def small(experiment: Experiment) -> Experiment:
    """The same parts, trained for one epoch on few data."""
    if isinstance(experiment.data, Arrays):  # your own file
        x = np.random.default_rng(0).normal(size=(1600, 3))
        np.savez(experiment.data.path, train=x)
    stage = experiment.second_stage
    stage = None if stage is None else replace(stage, inference=QUICK)
    networks = {"encoder": MLP((16,))} if isinstance(experiment.encoder, MLP) else {}
    return replace(experiment, inference=QUICK, second_stage=stage, **networks)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TRAINED)
def test_it_trains_is_stored_and_opens_in_a_new_process(name: str, tmp_path: Path) -> None:
    experiment = small(example(name).experiment())
    assert Experiment.from_dict(experiment.to_dict()) == experiment
    run = train(experiment, tmp_path / "run", draws=10, figures=False, progress=False)
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import {name}, flowvae, torch\n"
        "torch.set_num_threads(1)\n"
        "run = flowvae.load('run')\n"
        "model, guide = run.pair\n"
        "print(sum(float(p.detach().double().abs().sum()) for part in run.pair for p in part.parameters()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS, check=True)
    assert float(done.stdout) == pytest.approx(
        sum(float(p.detach().double().abs().sum()) for part in run.pair for p in part.parameters()), rel=1e-12
    )


@pytest.mark.parametrize("name", TRAINED)
def test_every_measure_is_taken_or_refused_with_a_reason(name: str, tmp_path: Path) -> None:
    run = train(small(example(name).experiment()), tmp_path / "run", draws=10, figures=False, progress=False)
    names = [measure for measure in MEASURES if measure != "generation"]  # which trains a classifier of the data
    try:
        run.evaluate(measures=names, draws=10, effort=TINY, progress=False)
        refused: dict[str, str] = {}
    except MeasurementError as error:
        refused = {measure: str(error) for measure in names if measure not in load(tmp_path / "run").measured}
        assert all(f"{measure} (" in text for measure, text in refused.items())
    always = {"likelihood", "iwae"}
    assert not always & set(refused), refused
    if name == "class_conditional":  # every class has codes and a prior of its own
        assert not {"gaps", "bdmc", "calibration", "memorization"} & set(refused), refused
    elif name == "two_levels":  # log p(z) is an integral
        assert not {"bdmc", "holes", "activity", "calibration", "memorization"} & set(refused), refused
    else:
        assert set(refused) <= {"interpolation"}, refused  # data without labels have no pairs of them


def test_an_own_module_as_an_object_needs_no_name_without_a_directory(tmp_path: Path) -> None:
    encoder = nn.Sequential(nn.Flatten(1), nn.Linear(64, 16), nn.Tanh())
    decoder = nn.Sequential(nn.Linear(8, 64), nn.Unflatten(1, (1, 8, 8)))
    experiment = Experiment(encoder=encoder, decoder=decoder, inference=QUICK)  # type: ignore[arg-type]
    with pytest.raises(FlowvaeError) as refused:
        train(experiment, tmp_path / "run", progress=False)
    assert "name" in str(refused.value)
    assert not (tmp_path / "run").exists()
    run = train(experiment, progress=False)
    assert len(run.history) == 1
    assert {metric.name for metric in run.evaluate(draws=10, progress=False)} >= {"elbo", "nll"}


@pytest.mark.parametrize("decoder", [nn.Sequential(nn.Linear(8, 63)), nn.Sequential(nn.Flatten(0), nn.LazyLinear(64))])
def test_a_decoder_that_breaks_the_contract_is_refused_before_training(decoder: nn.Module) -> None:
    with pytest.raises(FlowvaeError) as refused:
        train(Experiment(decoder=decoder, inference=QUICK), progress=False)  # type: ignore[arg-type]
    assert "(N, 8)" in str(refused.value)
    assert "(N, 1, 8, 8)" in str(refused.value)


class _Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(4)

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.cat((x.flatten(1), c), 1))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"encoder": _Conditional()}, ["encoder (_Conditional)", "Experiment.condition"]),
        (
            {"decoder": nn.Sequential(nn.Linear(8, 64)), "condition": Condition(prior=False)},
            ["decoder (Sequential)", "(N, 10)", "Condition(decoder=False)"],
        ),
    ],
)
def test_a_network_that_reads_a_condition_where_none_is_given_or_none_where_one_is(
    parts: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(FlowvaeError) as refused:
        train(Experiment(inference=QUICK, **parts), progress=False)
    assert all(word in str(refused.value) for word in words)


def test_a_moment_matched_prior_has_the_moments_of_the_codes() -> None:
    module = example("moment_matched_prior")
    experiment = Experiment(latent=2, encoder=MLP((16,)), decoder=MLP((16,)), prior=module.MomentMatched(100))
    data = experiment.data.load(0)
    model, guide = experiment.build(data)
    with torch.no_grad():
        guide.head.loc.weight.mul_(20)  # posteriors that differ from each other, as after training
        codes = guide.posterior(data.train[:100]).sample(torch.Size((5000,))).flatten(0, 1)
        prior = model.prior()
    assert torch.allclose(prior.mean, codes.mean(0), atol=0.03)
    assert torch.allclose(prior.covariance_matrix, codes.T.cov(), rtol=0.02, atol=0.02)
    with pytest.raises(FlowvaeError, match=r"2000.*1257"):
        Experiment(prior=module.MomentMatched(2000)).build(data)


def test_a_prior_that_keeps_the_guide_as_its_own_module_is_refused() -> None:
    module = example("moment_matched_prior")

    @dataclass(frozen=True)
    class Owner(module.MomentMatched):  # type: ignore[name-defined, misc]
        def build(self, features: int, context: int = 0) -> LazyDistribution:
            prior = super().build(features, context)
            bind = prior.bind
            prior.bind = lambda guide, train: (bind(guide, train), prior.add_module("owned", guide))
            return prior

    with pytest.raises(FlowvaeError) as refused:
        Experiment(prior=Owner(5)).build(Experiment().data.load(0))
    assert "Owner" in str(refused.value)
    assert "Reference" in str(refused.value)


def test_score_matching_finds_the_mean_and_the_covariance_of_the_codes() -> None:
    prior = example("score_matching_prior").ScoreMatching().build(2)
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.8]])
    codes = torch.randn(20_000, 2) @ torch.linalg.cholesky(covariance).T + torch.tensor([0.5, -1.0])
    optimizer = torch.optim.LBFGS(prior.parameters(), max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = prior.objective(codes)
        loss.backward()
        return loss

    optimizer.step(closure)
    found = prior()
    assert torch.allclose(found.mean, codes.mean(0), atol=1e-3)
    assert torch.allclose(found.covariance_matrix, codes.T.cov(), atol=1e-3)


def test_a_second_stage_minimizes_the_objective_of_the_prior_and_validates_by_its_own_loss(tmp_path: Path) -> None:
    module = example("score_matching_prior")
    stage = SecondStage(module.ScoreMatching(), replace(QUICK, epochs=3, validation_draws=2))
    run = train(
        Experiment(encoder=MLP((16,)), inference=QUICK, second_stage=stage),
        tmp_path / "run",
        draws=10,
        figures=False,
        progress=False,
    )
    history = run.history
    assert history["train_elbo"].iloc[-1] > history["train_elbo"].iloc[0]  # minus the loss, which is about −D/2
    assert history["train_elbo"].between(2, 6).all()
    assert history["valid_elbo"].between(-16, -8).all()  # log p of codes of 8 dimensions
    assert int(history["valid_elbo"].argmax()) == int(history["kept"].argmax())


def test_two_latent_sites_of_a_pair_of_ones_own() -> None:
    module = example("own_pair")
    torch.manual_seed(0)
    model, guide, x = module.Model(), module.Guide(), torch.randn(20, 5)
    with torch.no_grad():
        upper, lower = model.upper, model.lower
        of_code = upper.weight @ upper.weight.T + torch.eye(3)
        covariance = lower.weight @ of_code @ lower.weight.T + torch.eye(5)
        truth = torch.distributions.MultivariateNormal(lower(upper.bias), covariance).log_prob(x)
    found = measure_likelihoods(model, guide, x, draws=2000)
    assert (found.elbo < truth + 0.05).all()
    assert (found.log_evidence - truth).mean() < 0.1
    annealed = measure_ais(model, guide, x, AnnealedHMC(chains=8, temperatures=100))
    assert ((annealed.log_evidence - truth).abs() < 5 * annealed.standard_error + 0.05).all()


def test_the_script_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(FOLDER / "own_pair.py"), run_name="__main__")
    assert capsys.readouterr().out.count("tensor") == 2


def test_local_latents_of_a_vae_a_hierarchy_and_a_mixed_model(capsys: pytest.CaptureFixture[str]) -> None:
    text = (FOLDER / "local_latents.py").read_text().replace("steps=600", "steps=20")
    exec(compile(text, "local_latents.py", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.count("tensor") == 4
