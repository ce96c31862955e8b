"""Objectives by name in a training: settings, validation, checkpoints, programs and refusals."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn
from training_cases import FAST, equal, pair, values, weights

from flowvae import MLP, Condition, Experiment, FlowvaeError, Gaussian, LatentVariablePrior, RealNVP, Training
from flowvae.core.errors import SlowDirectionWarning
from flowvae.core.registry import families
from flowvae.core.seeds import derive, seeded
from flowvae.data import batch_of
from flowvae.flows import IAF
from flowvae.guides import FlowGuide
from flowvae.inference import (
    ELBO,
    IWAE,
    Beta,
    Bidirectional,
    DReG,
    Fitted,
    FreeBits,
    IWAETraceELBO,
    ObjectiveSpec,
    Renyi,
    StickingTheLanding,
    fit,
    load_checkpoint,
    save_checkpoint,
)

X, V = values(40, 3), values(20, 3, seed=1)
OBJECTIVES = {
    "elbo": ELBO(),
    "beta": Beta(0.5),
    "free-bits": FreeBits(0.3),
    "iwae": IWAE(4),
    "dreg": DReG(4),
    "sticking-the-landing": StickingTheLanding(),
    "renyi": Renyi(0.5, 4),
    "bidirectional": Bidirectional(0.1),
}
BY_NAME = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


def trained(settings: Training, file: Path | None = None, objective: Any = None) -> tuple[nn.ModuleDict, Fitted]:
    parts = pair(3)
    how: dict[str, Any] = {"progress": False, "objective": objective}
    return parts, fit(parts["model"], parts["guide"], X, V, settings, checkpoint=file, **how)


def test_all_are_listed() -> None:
    assert families("objective").keys() == OBJECTIVES.keys()
    assert all(family.default.title and family.default.paper for family in families("objective").values())


@BY_NAME
def test_a_training_resumes_bit_for_bit_and_is_the_same_as_a_program(objective: ObjectiveSpec, tmp_path: Path) -> None:
    settings = replace(FAST, objective=objective, learning_rate=0.05, epochs=4)
    parts, fitted = trained(settings)
    assert fitted.history["train_elbo"].iloc[-1] > fitted.history["train_elbo"].iloc[0] + 0.1
    for epochs in (2, 4):
        resumed, _ = trained(replace(settings, epochs=epochs), tmp_path / "checkpoint")
    assert equal(weights(parts), weights(resumed))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it must not fall back
        captured, _ = trained(replace(settings, compile="capture"))
    for name, value in weights(captured).items():
        torch.testing.assert_close(value, weights(parts)[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("draws", [1, 4, 10])
def test_validation_is_the_same_bound_with_the_same_noise(draws: int) -> None:
    """As many bounds of K draws as take `validation_draws`, one at least."""
    parts, fitted = trained(replace(FAST, objective=IWAE(4), validation_draws=draws, epochs=1))
    elbo = IWAETraceELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    times = -(-draws // 4)
    with seeded(derive(0, "validation")):
        bounds = [-elbo.loss(parts["model"], parts["guide"], V) / len(V) for _ in range(times)]
    assert fitted.history["valid_elbo"].iloc[0] == pytest.approx(sum(bounds) / times)


@pytest.mark.parametrize("name", ["particles", "kl_weight", "kl_warmup", "tempering"])
@BY_NAME
def test_other_settings_work_or_are_refused(objective: ObjectiveSpec, name: str) -> None:
    value = {"particles": 3, "kl_weight": 0.5, "kl_warmup": 2, "tempering": 3}[name]
    if name in objective.combines:
        _, fitted = trained(replace(FAST, objective=objective, **{name: value}))
        assert fitted.history["valid_elbo"].notna().all()
    else:
        with pytest.raises(FlowvaeError, match=rf"{name} = {value}.*{type(objective).__name__}"):
            replace(FAST, objective=objective, **{name: value})


def test_a_warm_up_weights_the_latent_terms_inside_of_the_logarithm() -> None:
    settings = replace(FAST, objective=IWAE(4), kl_warmup=2, epochs=3)
    (eager, fitted), (captured, _) = (trained(replace(settings, compile=mode)) for mode in ("none", "capture"))
    assert fitted.best_epoch >= 1
    for name, value in weights(captured).items():
        torch.testing.assert_close(value, weights(eager)[name], rtol=1e-4, atol=1e-6)
    other, _ = trained(replace(settings, kl_warmup=0))
    assert not torch.allclose(weights(other)["model.w"], weights(eager)["model.w"], atol=1e-5)


def test_the_default_is_not_written_and_others_are_read_back() -> None:
    plain = Experiment().to_dict()
    assert "objective" not in plain["inference"]
    for objective in OBJECTIVES.values():
        experiment = Experiment(inference=Training(objective=objective))
        assert Experiment.from_dict(experiment.to_dict()) == experiment
    named = Experiment.from_dict({"inference": {"objective": {"family": "iwae", "particles": 3}}})
    assert named.inference.objective == IWAE(3)
    with pytest.raises(FlowvaeError, match=r"objective = 'iwae'"):
        Training(objective="iwae")  # type: ignore[arg-type]


def test_a_checkpoint_from_before_the_setting_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint"
    trained(replace(FAST, epochs=2), file)
    tensors, facts = load_checkpoint(file)
    del facts["training"]["objective"]
    save_checkpoint(file, tensors, facts)
    resumed, _ = trained(FAST, file)
    assert equal(weights(resumed), weights(trained(FAST)[0]))
    with pytest.raises(FlowvaeError, match=r"objective = .*iwae.*elbo"):
        trained(replace(FAST, objective=IWAE()), file)


def test_a_loss_of_ones_own_is_no_objective_by_name() -> None:
    def loss(batch: Any) -> Tensor:
        return torch.zeros((), requires_grad=True)

    with pytest.raises(FlowvaeError, match=r"objective = IWAE"):
        trained(replace(FAST, objective=IWAE()), objective=loss)


def test_an_objective_of_ones_own() -> None:
    @dataclass(frozen=True)
    class MeanField(ObjectiveSpec, name="mean-field"):
        """Analytic KL terms."""

        def build(self, **settings: Any) -> TraceMeanField_ELBO:
            settings.pop("compile")
            return TraceMeanField_ELBO(**settings)

    _, fitted = trained(replace(FAST, objective=MeanField()))
    assert fitted.history["valid_elbo"].notna().all()


@pytest.mark.parametrize("objective", [DReG(2), StickingTheLanding(), Bidirectional()])
def test_a_guide_that_is_slow_at_given_codes_is_warned_of(objective: ObjectiveSpec) -> None:
    guide = FlowGuide(IAF())
    with pytest.warns(SlowDirectionWarning, match=rf"{type(objective).family}.*IAF.* 18 .* 2"):
        objective.check_parts(Experiment().prior, guide, 8, True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective.check_parts(Experiment().prior, Gaussian(), 8, True)


@BY_NAME
@pytest.mark.parametrize("conditional", [False, True])
def test_priors_with_latent_variables_and_conditions(objective: ObjectiveSpec, conditional: bool) -> None:
    warnings.filterwarnings("ignore", message=".*without a conditional prior")
    if isinstance(objective, FreeBits):
        objective = FreeBits(0.01)  # below the KL term of an untrained guide
    small: dict[str, Any] = {"encoder": MLP((8,)), "decoder": MLP((8,)), "latent": 3}
    prior = RealNVP(1, (8,)) if conditional else LatentVariablePrior()
    training = replace(FAST, epochs=2, objective=objective)
    experiment = Experiment(prior=prior, inference=training, condition=Condition() if conditional else None, **small)
    data = experiment.data.load(0)
    model, guide = experiment.build(data)
    train, valid = (batch_of(data, experiment.condition, split)[torch.arange(64)] for split in ("train", "valid"))
    before = {name: value.detach().clone() for name, value in model.prior.named_parameters()}
    fitted = fit(model, guide, train, valid, training, progress=False)
    assert fitted.history["valid_elbo"].iloc[-1] > fitted.history["valid_elbo"].iloc[0]
    assert not any(torch.equal(value, before[name]) for name, value in model.prior.named_parameters())
