"""Students of a prior: exact for Gaussians, both directions, stored and resumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import disturb
from torch import Size, Tensor
from torch.distributions import MultivariateNormal, kl_divergence
from zuko.distributions import DiagNormal
from zuko.lazy import LazyDistribution, UnconditionalDistribution

from flowvae import (
    IAF,
    MAF,
    Arrays,
    Condition,
    Contrastive,
    CouplingNSF,
    Energy,
    Experiment,
    FlowMatching,
    FlowvaeError,
    LatentVariablePrior,
    Mixture,
    SecondStage,
    Training,
    fit_prior,
    load,
    train,
)
from flowvae.cli.command import main
from flowvae.data import Batch
from flowvae.experiments.distillation import Distillation
from flowvae.flows import Linear
from flowvae.inference import IWAE
from flowvae.models import BernoulliLikelihood
from flowvae.networks import MLP

QUICK = Training(epochs=3, batch_size=16, device="cpu", checkpoint_seconds=0.0)
HOW = {"draws": 5, "figures": False, "progress": False}


class _Gaussian(LazyDistribution):
    """N(loc + c, tril trilᵀ)."""

    def __init__(self, loc: Tensor, tril: Tensor) -> None:
        super().__init__()
        self.register_buffer("loc", loc)
        self.register_buffer("tril", tril)

    def forward(self, c: Tensor | None = None) -> MultivariateNormal:
        return MultivariateNormal(self.loc if c is None else self.loc + c, scale_tril=self.tril)


def student(features: int) -> LazyDistribution:
    """N(0, I) with a gradient."""
    loc, scale = torch.zeros(features), torch.ones(features)
    return UnconditionalDistribution(DiagNormal, loc=loc, scale=scale)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("direction", ["reverse", "forward", "both"])
def test_between_gaussians_it_is_the_divergence_in_closed_form(direction: str) -> None:
    torch.manual_seed(0)
    teacher = _Gaussian(torch.tensor([0.5, -1.0, 0.2]), torch.eye(3) * 0.7 + torch.ones(3, 3).tril(-1) * 0.3)
    own = student(3)
    t, s = teacher(), MultivariateNormal(torch.zeros(3), torch.eye(3))
    expected = {"reverse": kl_divergence(s, t), "forward": kl_divergence(t, s)}
    expected["both"] = expected["reverse"] + expected["forward"]
    found = Distillation(teacher, own, direction, 100_000, seed=1)
    rows = torch.stack([found.loss(Batch(torch.empty(10_000, 1))) for _ in range(40)])
    assert rows.mean().item() == pytest.approx(expected[direction].item(), abs=0.03)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("direction", ["reverse", "forward", "both"])
def test_a_student_that_is_the_teacher_has_no_loss_at_any_draw(direction: str) -> None:
    torch.manual_seed(1)
    teacher = MAF(2, (8,)).build(4)
    disturb(teacher, 0.2)
    twin = MAF(2, (8,)).build(4)
    twin.load_state_dict(teacher.state_dict())
    loss = Distillation(teacher, twin, direction, 50, seed=0).loss(Batch(torch.empty(20, 1)))
    assert loss.item() == pytest.approx(0, abs=1e-9)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_an_affine_student_becomes_an_affine_teacher(direction: str) -> None:
    torch.manual_seed(2)
    teacher = Linear().build(2)
    disturb(teacher, 0.3)
    own = Linear().build(2)
    losses = Distillation(teacher, own, direction, 20_000, seed=0)
    optim = torch.optim.Adam(own.parameters(), 0.02)
    for step in range(600):
        optim.param_groups[0]["lr"] = 0.02 * (1 - step / 600)
        optim.zero_grad()
        losses.loss(Batch(torch.empty(256, 1))).backward()
        optim.step()
    z = teacher().sample((200,))
    assert (own().log_prob(z) - teacher().log_prob(z)).abs().mean() < 0.05
    assert losses.validate(Batch(torch.empty(1, 1))).item() == pytest.approx(0, abs=0.01)


def test_a_conditional_teacher_is_met_at_the_conditions_of_the_data() -> None:
    torch.manual_seed(3)
    teacher = _Gaussian(torch.zeros(2), torch.eye(2))
    c = torch.tensor([[0.0, 0.0], [10.0, -10.0]])
    found = Distillation(teacher, teacher, "both", 500, 0, c, c)
    drawn = found._train
    assert drawn.c is not None
    assert (drawn.z - drawn.c).abs().max() < 6
    assert 0.3 < (drawn.c[:, 0] == 0).double().mean() < 0.7
    assert found.loss(Batch(torch.empty(2, 1)), c).item() == pytest.approx(0, abs=1e-5)


def test_training_and_validation_use_other_draws_of_the_teacher() -> None:
    teacher = _Gaussian(torch.zeros(2), torch.eye(2))
    found = Distillation(teacher, student(2), "forward", 100, 0)
    again = Distillation(teacher, student(2), "forward", 100, 0)
    assert torch.equal(found._train.z, again._train.z)
    assert not torch.equal(found._train.z, found._valid.z)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an autoregressive prior."""
    folder = tmp_path_factory.mktemp("taught")
    np.savez(folder / "mine.npz", train=np.random.default_rng(0).integers(0, 2, (80, 6)))
    data = Arrays(folder / "mine.npz", BernoulliLikelihood())
    small = MLP((8,))
    experiment = Experiment(latent=3, encoder=small, decoder=small, prior=MAF(1, (8,)), data=data, inference=QUICK)
    return train(experiment, folder / "run", **HOW).directory or Path()  # type: ignore[arg-type]


@pytest.mark.parametrize("direction", ["reverse", "both"])
def test_a_run_is_distilled_stored_and_resumed(taught: Path, tmp_path: Path, direction: str) -> None:
    longer = replace(QUICK, epochs=5)
    stage = SecondStage(IAF(1, (8,)), QUICK, distill=direction, teacher_draws=64)
    at_once = fit_prior(taught, replace(stage, inference=longer), tmp_path / "long", **HOW)  # type: ignore[arg-type]
    run = fit_prior(taught, stage, tmp_path / "run", **HOW)  # type: ignore[arg-type]
    more = replace(run.experiment, second_stage=replace(stage, inference=longer))
    run = train(more, tmp_path / "run", resume=True, **HOW)  # type: ignore[arg-type]
    first, last = load(taught).pair.model.state_dict(), load(tmp_path / "run").pair.model.state_dict()
    for name, value in at_once.pair.model.state_dict().items():
        assert torch.equal(last[name], value)
        assert name.startswith("prior.") or torch.equal(first[name], value)
    assert run.sample(3).shape == (3, 6)


def test_the_loss_falls_and_is_the_validation_figure(taught: Path, tmp_path: Path) -> None:
    stage = SecondStage(
        CouplingNSF(2, (16,)), replace(QUICK, epochs=20, learning_rate=1e-2), distill="both", teacher_draws=4000
    )
    history = fit_prior(taught, stage, tmp_path / "run", **HOW).history  # type: ignore[arg-type]
    assert "loss" in load(tmp_path / "run").figure("history").axes[0].get_ylabel()
    assert history["valid_elbo"].max() <= 0.02  # minus a divergence, up to noise
    assert history["valid_elbo"].max() > history["valid_elbo"].iloc[0]


def test_the_command_line_distills(taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["distill", str(taught), "prior:iaf", "--prior.transforms", "1", "--kl", "forward", "--teacher-draws", "50"]
    assert main([*words, "--out", str(tmp_path / "run"), "--draws", "5", "--inference.epochs", "2"]) == 0
    second = load(tmp_path / "run").experiment.second_stage
    assert second is not None
    assert (second.distill, second.teacher_draws, second.prior) == ("forward", 50, IAF(1))
    assert main(["distill", "prior:iaf"]) == 2
    assert "prior:iaf" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["distill", "prior:iaf"], ["fit-prior", "prior:flow-matching"], ["fit-prior", "prior:maf"]]
)
def test_the_command_line_does_not_take_over_an_objective_of_the_whole_model(
    taught: Path, tmp_path: Path, words: list[str]
) -> None:
    first = load(taught).experiment
    weighted = train(replace(first, inference=replace(QUICK, kl_weight=2.0, particles=2)), tmp_path / "weighted", **HOW)  # type: ignore[arg-type]
    bound = train(replace(first, inference=replace(QUICK, objective=IWAE(2))), tmp_path / "bound", **HOW)  # type: ignore[arg-type]
    for run in (weighted, bound):
        out = tmp_path / f"{run.name}-fitted"
        assert main([words[0], run.name, words[1], "--out", str(out), "--draws", "5"]) == 0
        second = load(out).experiment.second_stage
        assert second is not None
        assert second.inference == QUICK


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        (SecondStage(FlowMatching((8, 8)), replace(QUICK, kl_weight=0.5)), "kl_weight = 0.5 with the prior FlowM"),
        (SecondStage(FlowMatching((8, 8)), replace(QUICK, objective=IWAE(2)), fine_tune=True), "objective"),
        (
            SecondStage(IAF(1, (8,)), replace(QUICK, particles=2), distill="reverse"),
            "particles = 2 with a distillation",
        ),
    ],
)
def test_settings_of_the_elbo_are_refused_before_the_first_stage(
    taught: Path, tmp_path: Path, stage: SecondStage, reason: str
) -> None:
    with pytest.raises(FlowvaeError, match=reason):
        train(replace(load(taught).experiment, second_stage=stage), tmp_path / "run", **HOW)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_prior_of_a_second_stage_is_no_teacher(taught: Path, tmp_path: Path) -> None:
    two = fit_prior(taught, SecondStage(Mixture(2), QUICK), tmp_path / "two", **HOW)  # type: ignore[arg-type]
    with pytest.raises(FlowvaeError, match="teacher"):
        fit_prior(two.name, SecondStage(IAF(1, (8,)), QUICK, distill="reverse"), tmp_path / "three", **HOW)  # type: ignore[arg-type]


def test_it_distills_by_condition(tmp_path: Path) -> None:
    small = MLP((8,))
    stage = SecondStage(CouplingNSF(2, (8,)), QUICK, distill="both", teacher_draws=100)
    experiment = Experiment(
        latent=2,
        encoder=small,
        decoder=small,
        prior=MAF(1, (8,)),
        inference=replace(QUICK, batch_size=200),
        condition=Condition(),
        second_stage=replace(stage, inference=replace(QUICK, batch_size=200)),
    )
    run = train(experiment)
    assert run.sample(4, c=[0, 1, 2, 3]).shape == (4, 1, 8, 8)


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda: SecondStage(IAF(), distill="kl"), "kl"),
        (lambda: SecondStage(IAF(), distill="reverse", fine_tune=True), "fine_tune"),
        (lambda: SecondStage(IAF(), distill="reverse", teacher_draws=0), "teacher_draws"),
        (lambda: SecondStage(Mixture(), distill="reverse"), "Mixture"),
        (lambda: SecondStage(FlowMatching(), distill="both"), "cannot be trained through its draws"),
        (lambda: SecondStage(Contrastive(), distill="forward"), "loss of its own"),
        (lambda: SecondStage(Energy(), distill="forward"), "loss of its own"),
        (lambda: SecondStage(LatentVariablePrior(), distill="forward"), "LatentVariablePrior"),
        (
            lambda: Experiment(prior=LatentVariablePrior(), second_stage=SecondStage(IAF(), distill="reverse")),
            "LatentVariablePrior",
        ),
    ],
)
def test_mistakes_are_named(make: Callable[[], object], value: str) -> None:
    with pytest.raises(FlowvaeError, match=value):
        make()


def test_what_the_directions_seek() -> None:
    """A Gaussian student of two modes: the reverse divergence takes one of them, the forward one covers both."""
    torch.manual_seed(4)
    teacher = Mixture(2).build(1)
    with torch.no_grad():
        for parameter, value in zip(teacher.phi, (torch.zeros(2), torch.tensor([[-3.0], [3.0]]), None), strict=False):
            if value is not None:
                parameter.copy_(value.reshape(parameter.shape))
        teacher.phi[2].fill_(-0.7)
    widths = {}
    for direction in ("reverse", "forward"):
        torch.manual_seed(5)
        loc, log_scale = torch.tensor([0.5], requires_grad=True), torch.zeros(1, requires_grad=True)
        own = _Moving(loc, log_scale)
        losses = Distillation(teacher, own, direction, 4000, seed=0)
        optim = torch.optim.Adam([loc, log_scale], 0.05)
        for _ in range(300):
            optim.zero_grad()
            losses.loss(Batch(torch.empty(200, 1))).backward()
            optim.step()
        widths[direction] = log_scale.exp().item()
    assert widths["reverse"] < 0.7
    assert widths["forward"] > 2.5


class _Moving(LazyDistribution):
    def __init__(self, loc: Tensor, log_scale: Tensor) -> None:
        super().__init__()
        self.loc, self.log_scale = loc, log_scale

    def forward(self, c: Tensor | None = None) -> DiagNormal:
        return DiagNormal(self.loc, self.log_scale.exp())


def test_draws_of_the_teacher_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from flowvae.experiments import distillation

    monkeypatch.setattr(distillation, "BLOCK", 7)
    teacher = _Gaussian(torch.zeros(2), torch.eye(2))
    found = Distillation(teacher, student(2), "forward", 20, 0)._train
    assert found.z.shape == Size((20, 2))
    assert torch.allclose(found.log_density, teacher().log_prob(found.z))
