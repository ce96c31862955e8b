"""Everything that measures, draws or generates does so in evaluation mode, and leaves every module's mode as it was."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import flowvae.evaluation as evaluation
from flowvae import MAF, Digits, Experiment, RealNVP, SemiAmortized
from flowvae.data import Dataset, Moons
from flowvae.evaluation import (
    AggregatedPosterior,
    AnnealedHMC,
    Scene,
    importance_draws,
    measure_likelihoods,
    measure_surgery,
    whiten,
)
from flowvae.experiments.assemble import ModelGuide
from flowvae.guides import NoGuide
from flowvae.inference import refine
from flowvae.models import FlowModel
from flowvae.networks import MLP

WHOLE = Digits().load(0)
DATA = replace(
    WHOLE,
    train=WHOLE.train[:250],
    valid=WHOLE.valid[:50],
    test=WHOLE.test[:60],
    labels={split: labels[:n] for (split, labels), n in zip((WHOLE.labels or {}).items(), (250, 50, 60), strict=True)},
)
PLANE = Moons().load(0)
X = DATA.test
SMALL = Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,)), prior=MAF(2, (8,)))
FAST = AnnealedHMC(chains=2, temperatures=2)
HISTORY = pd.DataFrame({"epoch": [0], "train_elbo": [-1.0], "valid_elbo": [-1.0], "weight": [1.0], "kept": [True]})


def vae(data: Dataset = DATA) -> ModelGuide:
    torch.manual_seed(0)
    return SMALL.build(data)


def flow(data: Dataset) -> tuple[nn.Module, nn.Module]:
    return FlowModel(RealNVP(hidden_features=(8,)).transform(data.features), data.shape), NoGuide()


def measured(model: Any, guide: Any) -> list[Any]:
    of = evaluation.EvaluationContext(model, guide, DATA, "test", 30, 0, {})
    return [evaluation.MEASURES[name](of) for name in ("likelihood", "activity", "mmd")]


VAE_CALLS: dict[str, Callable[[Any, Any], object]] = {
    "measure_sampling_time": lambda model, guide: evaluation.measure_sampling_time(model, draws=3),
    "AggregatedPosterior": lambda m, g: (
        AggregatedPosterior(g, X).log_prob(torch.randn(5, 2)),
        AggregatedPosterior(g, X).cost(9),
    ),
    "Scene": lambda m, g: Scene(m, g, DATA),
    "draw_state": lambda m, g: evaluation.draw_state(Scene(m, g, DATA), torch.zeros(2)),
    "EvaluationContext": measured,
    "calibrate": lambda m, g: evaluation.calibrate(m, g, 5, 9),
    "calibrate_fits": lambda m, g: evaluation.calibrate_fits(m, lambda _: g, X[:2], simulations=1, draws=9),
    "draw_codes": lambda m, g: evaluation.draw_codes(g, X, 1, 0),
    "draw_figures": None,  # type: ignore[dict-item]  # it writes files
    "generate": lambda m, g: (evaluation.generate(m, 4), evaluation.generate(m, 4, "means")),
    "importance_draws": lambda m, g: next(importance_draws(m, g, X, 2, 0)),
    "interpolate_codes": lambda m, g: evaluation.interpolate_codes(m, torch.zeros(3, 2), torch.ones(3, 2)),
    "measure_activity": lambda m, g: evaluation.measure_activity(m, g, X, 3),
    "measure_ais": lambda m, g: evaluation.measure_ais(m, g, X, FAST),
    "measure_bdmc": lambda m, g: evaluation.measure_bdmc(m, g, 4, FAST),
    "measure_classifier": lambda m, g: evaluation.measure_classifier(m, g, X),
    "measure_gaps": lambda m, g: evaluation.measure_gaps(m, g, X[:4], steps=2, draws=5, tempering=FAST),
    "measure_generation": lambda m, g: evaluation.measure_generation(m, DATA, whiten(DATA), count=40),
    "measure_prior_overfitting": lambda m, g: evaluation.measure_prior_overfitting(m, g, X, DATA.train),
    "measure_holes": lambda m, g: evaluation.measure_holes(m, g, DATA.train, X, draws=60, quantile=0.2),
    "measure_iwae": lambda m, g: evaluation.measure_iwae(m, g, X, (1, 30)),
    "measure_likelihoods": lambda m, g: measure_likelihoods(m, g, X, 30),
    "measure_memorization": lambda m, g: evaluation.measure_memorization(m, DATA, count=20),
    "measure_mmd": lambda m, g: evaluation.measure_mmd(m, g, X),
    "measure_interpolation": lambda m, g: evaluation.measure_interpolation(m, g, X[:3], X[3:6], steps=3),
    "measure_surgery": lambda m, g: measure_surgery(m, g, X),
    "plot_holes": lambda m, g: evaluation.plot_holes(m, g, X),
    "plot_latent": lambda m, g: evaluation.plot_latent(m, g, DATA),
    "plot_interpolation": lambda m, g: evaluation.plot_interpolation(m, g, DATA, pairs=1, steps=3),
    "plot_neighbours": lambda m, g: evaluation.plot_neighbours(m, DATA, count=2),
    "plot_priors": lambda m, g: evaluation.plot_priors({"maf": (m, g)}, DATA),
    "plot_reconstructions": lambda m, g: evaluation.plot_reconstructions(m, g, DATA),
    "plot_samples": lambda m, g: evaluation.plot_samples(m, DATA),
    "plot_traversal": lambda m, g: evaluation.plot_traversal(m, g, DATA, steps=3),
    "predict": lambda m, g: evaluation.predict(m, {"z": torch.zeros(2, 3, 2)}, X[:3]),
    "refine": lambda m, g: refine(m, g, X[:4], steps=2),
    "run_nuts": lambda m, g: evaluation.run_nuts(m, X[:1], draws=4, warmup=2, chains=1, max_tree_depth=2),
    "to_arviz": lambda m, g: evaluation.to_arviz(m, g, X[:3], 30),
    "importance_sample": lambda m, g: evaluation.importance_sample(m, g, X[:2], draws=30),
    "importance_sample_each": lambda m, g: evaluation.importance_sample_each(m, g, X[:2], 30),
    "VAE.generate": lambda m, g: m.generate(3),
}
FLOW_CALLS: dict[str, tuple[Dataset, Callable[[Any], object]]] = {
    "FlowModel.generate": (PLANE, lambda m: m.generate(3)),
    "interpolate": (PLANE, lambda m: evaluation.interpolate(m, PLANE.test[:2], PLANE.test[2:4])),
    "measure_flow": (PLANE, lambda m: evaluation.measure_flow(m, NoGuide(), PLANE.test[:9])),
    "plot_density": (PLANE, lambda m: evaluation.plot_density(m, PLANE)),
    "plot_flow_samples": (DATA, lambda m: evaluation.plot_flow_samples(m, DATA)),
    "plot_flow_interpolation": (DATA, lambda m: evaluation.plot_flow_interpolation(m, DATA, pairs=1, steps=2)),
    "plot_steps": (PLANE, lambda m: evaluation.plot_steps(m, PLANE)),
}


class Spied:
    """Notes in which mode the modules of a pair run, and in which they are afterwards."""

    def __init__(self, *parts: nn.Module) -> None:
        self.modules = [module for part in parts for module in part.modules()]
        self.seen: list[bool] = []
        for number, module in enumerate(self.modules):
            module.training = number % 3 > 0  # a pattern that neither train() nor eval() makes
            module.register_forward_pre_hook(lambda module, _: self.seen.append(module.training))
        self.before = [module.training for module in self.modules]

    def check(self) -> None:
        assert self.seen
        assert not any(self.seen)
        assert [module.training for module in self.modules] == self.before


@pytest.mark.filterwarnings("ignore::flowvae.evaluation.NoisyParetoKWarning")
@pytest.mark.parametrize("name", [name for name, call in VAE_CALLS.items() if call])
def test_measures_run_in_evaluation_mode(name: str) -> None:
    pair = vae()
    spied = Spied(*pair)
    VAE_CALLS[name](*pair)
    spied.check()


@pytest.mark.parametrize("name", FLOW_CALLS)
def test_flows_of_data_are_measured_in_evaluation_mode(name: str) -> None:
    data, call = FLOW_CALLS[name]
    model, _ = flow(data)
    spied = Spied(model)
    call(model)
    spied.check()


def test_figures_of_a_run_are_drawn_in_evaluation_mode(tmp_path: Path) -> None:
    pair = vae()
    spied = Spied(*pair)
    evaluation.draw_figures(*pair, DATA, HISTORY, tmp_path)
    spied.check()


def test_no_public_function_is_forgotten() -> None:
    """What takes a model, a guide, pairs of them or a scene is in one of the tables above."""
    takes = {"model", "guide", "pairs", "scene"}
    found = set()
    for name in evaluation.__all__:
        with suppress(TypeError, ValueError):
            if takes & set(inspect.signature(getattr(evaluation, name)).parameters):
                found.add(name)
    assert found <= {*VAE_CALLS, *FLOW_CALLS}


def noisy_pair() -> ModelGuide:
    """A pair whose networks normalize over the batch and drop half of their units in training."""
    model, guide = vae()

    def network(inputs: int, outputs: int) -> nn.Sequential:
        layers = nn.Linear(inputs, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, outputs)
        return nn.Sequential(*layers)

    model.decoder = nn.Sequential(network(2, 64), nn.Unflatten(1, (1, 8, 8)))
    guide.encoder = nn.Sequential(nn.Flatten(1), network(64, 8))
    with torch.no_grad():
        guide.head.log_scale.weight.zero_()
        guide.head.log_scale.bias.fill_(-12.0)  # a code is all but a point, so that noise explains no difference
    return ModelGuide(model, guide)


def test_a_datum_is_measured_alike_in_any_company() -> None:
    pair = noisy_pair()
    buffers = [buffer.clone() for part in pair for buffer in part.buffers()]
    among = [measure_likelihoods(*pair, x, 30).reconstruction[0] for x in (WHOLE.test[:100], X[:64], X[:2], X[:1])]
    torch.testing.assert_close(torch.stack(among), among[0].expand(4), rtol=0, atol=2e-2)
    assert all(torch.equal(old, new) for old, new in zip(buffers, (b for p in pair for b in p.buffers()), strict=True))
    assert all(module.training for part in pair for module in part.modules())


def test_draws_of_a_datum_do_not_mix_with_data_in_a_layer_that_knows_channels() -> None:
    """As many units as there are data in a block: a batch of draws would be taken for one of channels."""
    model, guide = vae()
    last = nn.Linear(64, 64), nn.Unflatten(1, (1, 8, 8))
    model.decoder = nn.Sequential(nn.Linear(2, 64), nn.BatchNorm1d(64), nn.Tanh(), *last)
    model.decoder[1].running_mean.copy_(torch.randn(64))
    (block,) = importance_draws(model, guide, WHOLE.test[:64], 3, 0)
    model.eval()
    for code, log_likelihood in zip(block.code, block.log_likelihood, strict=True):
        torch.testing.assert_close(log_likelihood, model.decode(code).log_prob(WHOLE.test[:64]).detach())


class Own(nn.Module):
    """A user's own model, whose decoder does not fold leading dimensions."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x.flatten(1))


def test_an_own_model_sees_one_code_a_row() -> None:
    """As many units as there are data in a block: a batch of draws would be taken for one of channels."""
    decoder = nn.Sequential(nn.Linear(2, 64), nn.BatchNorm1d(64), nn.Tanh(), nn.Linear(64, 64))
    decoder[1].running_mean.copy_(torch.randn(64))
    _, guide = vae()
    (block,) = importance_draws(Own(decoder), guide, WHOLE.test[:64], 3, 0)
    decoder.eval()
    for code, log_likelihood in zip(block.code, block.log_likelihood, strict=True):
        expected = dist.Normal(decoder(code), 1.0).log_prob(WHOLE.test[:64].flatten(1)).sum(-1)
        torch.testing.assert_close(log_likelihood, expected.detach())


def test_a_guide_that_looks_into_the_model_evaluates_it_too() -> None:
    model, guide = replace(SMALL, guide=SemiAmortized(steps=2)).build(DATA)
    model.decoder.insert(1, nn.Dropout(0.5))
    first, second = (evaluation.draw_codes(guide, X, 1, 0)[0] for _ in range(2))
    torch.manual_seed(5)  # which decides what is dropped, where anything is
    third = evaluation.draw_codes(guide, X[:30], 1, 0)[0]
    assert torch.equal(first, second)
    assert third.shape == (1, 30, 2)
    spied = Spied(model)
    evaluation.draw_codes(guide, X, 1, 0)
    spied.check()
