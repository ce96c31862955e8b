"""Priors with an objective of their own in a second stage: the best epoch, resuming, loading, the command line."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Size

from flowvae import MAF, Experiment, FlowvaeError, Pinwheel, PriorSpec, SecondStage, Training, load, train
from flowvae.cli.command import main
from flowvae.core.errors import EstimatedDensityWarning
from flowvae.evaluation import AnnealedHMC, Effort
from flowvae.models import Contrastive, Energy, FlowMatching
from flowvae.networks import MLP, Lipschitz

QUICK = Training(epochs=1, batch_size=64, device="cpu", validation_draws=2)
PRIORS: dict[str, PriorSpec] = {
    "contrastive": Contrastive(base=MAF(1, (8,)), classifier=MLP((8,)), constant_draws=2000, proposals=8, steps=5),
    "energy": Energy(energy=Lipschitz((8,)), constant_draws=2000, proposals=16),
    "flow-matching": FlowMatching(hidden_features=(8, 8)),
}
over_priors = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)


def experiment(prior: PriorSpec, epochs: int = 2) -> Experiment:
    stage = SecondStage(prior, replace(QUICK, epochs=epochs))
    data = Pinwheel(train=300, valid=50, test=40)
    small = {"encoder": MLP((8,)), "decoder": MLP((8,))}
    return Experiment(latent=2, data=data, inference=QUICK, second_stage=stage, **small)  # type: ignore[arg-type]


def trained(made: Experiment, place: Path, **settings: Any) -> Any:
    return train(made, place, draws=5, figures=False, progress=False, **settings)


def weights(run: Any) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = run.pair.model.state_dict()
    return found


@over_priors
def test_a_continued_fit_is_the_same_bit_for_bit(prior: PriorSpec, tmp_path: Path) -> None:
    trained(experiment(prior, 1), tmp_path / "parts")
    parts = trained(experiment(prior, 3), tmp_path / "parts", resume=True)
    whole = trained(experiment(prior, 3), tmp_path / "whole")
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(parts)[name]), name
    assert parts.history["valid_elbo"].tolist() == whole.history["valid_elbo"].tolist()


@over_priors
def test_it_is_loaded_with_its_constant_and_every_metric_states_its_error(prior: PriorSpec, tmp_path: Path) -> None:
    made = experiment(prior)
    run = trained(made, tmp_path / "run")
    again = load(tmp_path / "run")
    assert again.experiment == made == Experiment.from_dict(made.to_dict())
    z = torch.randn(5, 2)
    assert torch.equal(again.pair.model.prior().log_prob(z), run.pair.model.prior().log_prob(z))
    facts = run.pair.model.prior.facts()
    key = "ode_error" if isinstance(prior, FlowMatching) else "log_z_standard_error"
    assert 0 < facts[key] < 0.1
    for metric in again.metrics:
        assert metric.protocol["prior"] == pytest.approx(facts)


@over_priors
def test_every_measure_that_needs_its_density_or_draws_is_taken(prior: PriorSpec, tmp_path: Path) -> None:
    run = trained(experiment(prior), tmp_path / "run")
    quick = Effort(rows=2, refinement=5, tempering=AnnealedHMC(chains=2, temperatures=2, leapfrog=2))
    names = ["likelihood", "iwae", "surgery", "mmd", "gaps", "bdmc", "activity", "memorization"]
    for metric in run.evaluate(measures=names, draws=10, effort=quick, progress=False):
        assert math.isfinite(metric.value), metric
    z, x = run.pair.model.generate(30)
    assert z.shape == (30, 2)
    assert x.isfinite().all()


def test_the_best_epoch_is_the_one_of_the_largest_density_of_validation_codes(tmp_path: Path) -> None:
    run = trained(experiment(PRIORS["contrastive"], 4), tmp_path / "run")
    history = run.history
    assert history["kept"].tolist().index(True) == int(history["valid_elbo"].argmax())
    # log p of 2-dimensional codes about N(0, I), not a cross-entropy of 2 log 2
    assert history["valid_elbo"].between(-4.5, -1.5).all()


def test_an_epoch_whose_constant_cannot_be_trusted_is_not_kept(tmp_path: Path) -> None:
    few = replace(PRIORS["contrastive"], constant_draws=50)  # type: ignore[type-var]
    with pytest.raises(FlowvaeError), pytest.warns(EstimatedDensityWarning, match="constant_draws = 50"):
        trained(experiment(few), tmp_path / "run")


def test_the_command_line_fits_it_to_a_finished_run_and_refuses_joint_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained(replace(experiment(PRIORS["energy"]), second_stage=None), tmp_path / "first")
    words = "--out second prior:contrastive prior.base:maf --prior.base.transforms 1 --prior.constant-draws 1000"
    assert main(["fit-prior", "first", *words.split(), "--inference.epochs", "1", "--draws", "5"]) == 0
    run = load("second")
    assert run.experiment.last_prior == Contrastive(base=MAF(1), constant_draws=1000)
    assert run.pair.model.prior().sample(Size((3,))).shape == (3, 2)
    assert main(["train", "prior:energy", "--out", "third"]) == 2
    assert "Energy" in capsys.readouterr().err
    assert not Path("third").exists()
