"""VampPriors against the mixture of posteriors written by hand, and against the aggregated posterior."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from prior_cases import SMALL, mass_and_error, pair
from torch import Size, Tensor, nn

from flowvae import (
    IAF,
    MLP,
    Condition,
    Conv,
    Experiment,
    FlowGuide,
    FlowvaeError,
    FullRank,
    Gaussian,
    LatentVariablePrior,
    RealNVP,
    SecondStage,
    SemiAmortized,
    Training,
    VampPrior,
    load,
    train,
)
from flowvae.core.errors import SlowDirectionWarning
from flowvae.evaluation import measure_surgery
from flowvae.models import VampGTM

GUIDES = {
    "gaussian": Gaussian(),
    "full-rank": FullRank(),
    "realnvp": FlowGuide(RealNVP(transforms=2)),
    "iaf": FlowGuide(IAF(1, (16,))),
}
PRIORS = {
    "learned": VampPrior(5),
    "mean": VampPrior(5, start="mean"),
    "data": VampPrior(5, "data"),
    "weighted": VampPrior(5, weighted=True),
    "gtm": VampGTM(points=2, network=MLP((8,)), weighted=True),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES.keys())
def test_it_is_the_mixture_of_posteriors_written_by_hand(guide: Any) -> None:
    model, guide, x = pair(prior=VampPrior(4, weighted=True), guide=guide)
    with torch.no_grad():
        model.prior.logits.copy_(torch.randn(4))
        table = model.prior.inputs.standardized.values
        table.add_(0.5 * torch.randn(4, 1, 8, 8))
        weights = model.prior.logits.softmax(0)
        mean, deviation = x.mean(0), x.std(0, correction=0)
        deviation = torch.where(deviation > 0, deviation, deviation.square().mean().sqrt())
        inputs = (mean + deviation * table).clamp(0, 16)
        assert ((inputs == 0) | (inputs == 16)).any()
        z = torch.randn(3, 6, 2)
        by_hand = torch.zeros(3, 6)
        for weight, u in zip(weights, inputs, strict=True):
            one = guide.posterior(u.expand(6, 1, 8, 8))
            by_hand += weight * torch.stack([one.log_prob(part) for part in z]).exp()
        assert torch.allclose(model.prior().log_prob(z), by_hand.log(), atol=1e-8)
        assert torch.allclose(model.prior().log_prob(z[0, 0]), by_hand[0, 0].log(), atol=1e-8)
        assert torch.allclose(model.prior().expand(Size((6,))).log_prob(z), by_hand.log(), atol=1e-8)


@pytest.mark.parametrize("prior", [*PRIORS.values()], ids=PRIORS.keys())
def test_its_density_integrates_to_one_and_is_that_of_its_draws(prior: Any) -> None:
    model, _, _ = pair(prior=prior, scale=0.3)
    mass, error = mass_and_error(model.prior())
    assert mass == pytest.approx(1, abs=1e-2)
    assert error < 4.5


def test_draws_of_a_flow_guide_agree_with_its_density() -> None:
    model, _, _ = pair(prior=VampPrior(5), guide=GUIDES["realnvp"], scale=0.3)
    mass, error = mass_and_error(model.prior())
    assert mass == pytest.approx(1, abs=1e-2)
    assert error < 4.5


@pytest.mark.parametrize("guide", ["gaussian", "full-rank"])
def test_with_all_training_data_it_is_the_aggregated_posterior(guide: str) -> None:
    """KL(q̄‖p) = 0, and the mean KL term is the information I_q(x; z) ≤ log N."""
    model, guide, x = pair(prior=VampPrior(1257, "data"), guide=GUIDES[guide])
    found = {metric.name: metric.value for metric in measure_surgery(model, guide, x).metrics("train", {})}
    assert abs(found["marginal_kl"]) < 1e-4
    assert found["mean_kl"] == pytest.approx(found["mutual_information"], abs=1e-4)
    assert 1 < found["mutual_information"] <= math.log(len(x))
    model, guide, x = pair(prior=VampPrior(600, "data"), guide=Gaussian())
    found = {metric.name: metric.value for metric in measure_surgery(model, guide, x).metrics("train", {})}
    assert found["marginal_kl"] > 1e-2


def test_pseudo_inputs_start_as_data_or_as_their_mean_in_the_range_of_the_data() -> None:
    model, _, x = pair(prior=VampPrior(200))
    start = model.prior.inputs()
    assert 0 <= start.min() < start.max() <= 16
    nearest = torch.cdist(start.flatten(1), x.flatten(1)).min(1)
    assert nearest.values.max() < 1
    assert len(nearest.indices.unique()) == 200
    model, _, x = pair(prior=VampPrior(200, start="mean"))
    away = (model.prior.inputs() - x.mean(0)).flatten(1)
    assert away.abs().max() < 0.2 * x.std(0).max()
    assert away.std(0).max() > 0
    # another seed has other pseudo-inputs, the same seed the same
    again, _, _ = pair(prior=VampPrior(200, start="mean"))
    assert torch.equal(again.prior.inputs(), model.prior.inputs())
    other, _, _ = pair(prior=VampPrior(200, start="mean"), seed=1)
    assert not torch.equal(other.prior.inputs(), model.prior.inputs())


@pytest.mark.parametrize("prior", [VampPrior(6, weighted=True), VampGTM(points=2, weighted=True)])
def test_every_parameter_of_the_prior_has_a_gradient_and_belongs_to_it_alone(prior: Any) -> None:
    model, guide, x = pair(prior=prior)
    z = guide.posterior(x[:8]).rsample()
    model.prior().log_prob(z).mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.prior.parameters())
    assert set(guide.parameters()).isdisjoint(model.parameters())
    assert all(parameter.grad is not None for parameter in guide.encoder.parameters())  # through the prior


class _Normalized(nn.Module):
    """Batch normalization and dropout, which are not those of pseudo-inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(1), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.filterwarnings("ignore::flowvae.networks.MixedBatchWarning")
def test_pseudo_inputs_are_encoded_in_evaluation_mode() -> None:
    model, guide, _ = pair(prior=VampPrior(6), encoder=_Normalized())
    guide.train()
    statistics = guide.encoder[1].layers[2].running_mean.clone()
    z = torch.randn(4, 2)
    first = model.prior().log_prob(z)
    assert torch.equal(model.prior().log_prob(z), first)
    assert torch.equal(guide.encoder[1].layers[2].running_mean, statistics)
    assert guide.encoder.training
    guide.eval()
    assert torch.equal(model.prior().log_prob(z), first)


def test_images_go_through_a_convolutional_encoder() -> None:
    model, _, _ = pair(prior=VampPrior(3), encoder=Conv(channels=(4,)))
    assert model.prior().sample(Size((2, 5))).shape == (2, 5, 2)


def test_an_autoregressive_guide_is_scored_in_its_slow_direction() -> None:
    with pytest.warns(SlowDirectionWarning, match=r"IAF in a prior.*latent 16"):
        Experiment(latent=16, prior=VampPrior(3), guide=FlowGuide(IAF())).build(SMALL.data.load(0))


def test_copies_are_equal_and_share_nothing() -> None:
    model, guide, _ = pair(prior=VampPrior(3))
    other, _ = copy.deepcopy((model, guide))
    z = torch.randn(4, 2)
    assert torch.equal(other.prior().log_prob(z), model.prior().log_prob(z))
    with torch.no_grad():
        guide.head.loc.bias.add_(1)
    assert not torch.equal(other.prior().log_prob(z), model.prior().log_prob(z))


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS.keys())
def test_it_trains_jointly_and_is_loaded_without_its_data(tmp_path: Any, prior: Any) -> None:
    experiment = Experiment.from_dict({**SMALL.to_dict(), "prior": prior})
    run = train(experiment, tmp_path / "run", draws=5, figures=False, progress=False)
    again = load(tmp_path / "run")
    assert again.experiment == experiment
    z = torch.randn(4, 2)
    assert torch.equal(again.pair.model.prior().log_prob(z), run.pair.model.prior().log_prob(z))


@pytest.mark.parametrize("prior", [PRIORS["learned"], PRIORS["gtm"]], ids=["learned", "gtm"])
def test_a_second_stage_fits_the_prior_alone(tmp_path: Any, prior: Any) -> None:
    experiment = Experiment.from_dict({**SMALL.to_dict(), "second_stage": SecondStage(prior, SMALL.inference)})
    run = train(experiment, tmp_path / "run", draws=5, figures=False, progress=False)
    first = load(tmp_path / "run" / "first-stage")
    for name, value in first.pair.guide.state_dict().items():
        assert torch.equal(run.pair.guide.state_dict()[name], value), name
    start = experiment.build(run.data).model.prior.state_dict()
    changed = [name for name, value in run.pair.model.prior.state_dict().items() if not torch.equal(value, start[name])]
    assert changed


def test_a_training_that_is_extended_ends_as_a_long_one(tmp_path: Any) -> None:
    def run(epochs: int, place: str, **how: Any) -> dict[str, Tensor]:
        training = Training(epochs=epochs, batch_size=128, device="cpu")
        one = Experiment.from_dict({**SMALL.to_dict(), "prior": VampPrior(5), "inference": training})
        return train(one, tmp_path / place, draws=5, figures=False, progress=False, **how).pair.model.state_dict()

    run(1, "short")
    extended, whole = run(3, "short", resume=True), run(3, "long")
    assert all(torch.equal(extended[name], value) for name, value in whole.items())


def test_captured_steps_are_those_of_pyro() -> None:
    histories = []
    for mode in ("none", "capture"):
        training = Training(epochs=2, batch_size=128, device="cpu", compile=mode)
        one = Experiment.from_dict({**SMALL.to_dict(), "prior": VampPrior(5), "inference": training})
        histories.append(train(one, progress=False).history["train_elbo"].to_numpy())
    assert histories[0] == pytest.approx(histories[1], rel=1e-5)


REFUSED = {
    "more than the data": (lambda: pair(prior=VampPrior(2000)), r"VampPrior.components = 2000.*1257"),
    "none": (lambda: VampPrior(0), "VampPrior.components = 0"),
    "inputs": (lambda: VampPrior(inputs="datum"), "datum.*data"),
    "start": (lambda: VampPrior(inputs="data", start="mean"), "mean.*data"),
    "condition": (lambda: Experiment(prior=VampPrior(), condition=Condition()), "VampPrior"),
    "condition of the guide": (
        lambda: pair(prior=VampPrior(), condition=Condition(prior=False)),
        "VampPrior.*Condition.*condition.encoder",
    ),
    "semi-amortized": (lambda: Experiment(prior=VampPrior(), guide=SemiAmortized()), "SemiAmortized.*VampPrior"),
    "nothing to fit": (lambda: SecondStage(VampPrior(inputs="data")), "VampPrior.*nothing to fit"),
    "no guide": (lambda: VampPrior().build(2)(), "VampPrior.*bind"),
    "inside of another": (lambda: LatentVariablePrior(prior=VampPrior()).build(3), "VampPrior.*bind"),
    "grid": (lambda: VampGTM(dimensions=3), "VampGTM.dimensions = 3"),
    "network": (lambda: VampGTM(network=3), "VampGTM.network = 3"),
}


@pytest.mark.parametrize(("mistake", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_mistakes_are_named(mistake: Any, words: str) -> None:
    with pytest.raises(FlowvaeError, match=words):
        mistake()


def test_any_module_can_be_an_encoder() -> None:
    model, _, _ = pair(prior=VampPrior(3), encoder=nn.Sequential(nn.Flatten(1), nn.Linear(64, 8)))
    assert model.prior().log_prob(torch.zeros(2)).isfinite()
