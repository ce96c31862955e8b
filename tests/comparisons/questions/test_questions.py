"""Every question's arms are experiments that differ in what is asked, on every data set and preset."""

from __future__ import annotations

from functools import cache

import pytest
from comparison_cases import loaded

from flowvae.comparisons import BASES, PRESETS, QUESTIONS
from flowvae.comparisons.engine.grid import cell_name
from flowvae.comparisons.engine.parameter_matching import count_parameters
from flowvae.data import Dataset
from flowvae.experiments.experiment import Experiment
from flowvae.models import FlowDecoder

CASES = [(name, data) for name, question in QUESTIONS.items() for data in question.data]


@cache
def arms_of(name: str, data: str, preset: str) -> dict[str, Experiment]:
    return QUESTIONS[name].experiments(data, preset, data=loaded(data))


@pytest.mark.parametrize(("name", "data"), CASES)
@pytest.mark.parametrize("preset", ["hour", "cluster"])
def test_arms_are_experiments_that_can_start(name: str, data: str, preset: str) -> None:
    question = QUESTIONS[name]
    arms = arms_of(name, data, preset)
    assert question.name == name
    assert question.asks.endswith((".", "?"))
    assert "theory predicts" in question.predicts
    contrasts = question.contrasts(arms)
    assert len(set(contrasts)) == len(contrasts)
    for arm, against in contrasts:
        assert {arm, against} <= set(arms)
        assert arm.partition("@")[2] == against.partition("@")[2]
    assert {arm for arm, _ in contrasts} >= {arm for arm in arms if arm.partition("@")[0] != question.baseline}
    for experiment in arms.values():
        assert Experiment.from_dict(experiment.to_dict()) == experiment
        experiment.inference.check_steps(len(loaded(data).train))
        assert experiment.inference.epochs <= PRESETS[preset].epochs
        if experiment.second_stage:
            assert experiment.second_stage.inference.epochs <= PRESETS[preset].epochs


@pytest.mark.parametrize(("name", "data"), CASES)
def test_every_pair_and_costly_arm_names_arms_that_there_are(name: str, data: str) -> None:
    question = QUESTIONS[name]
    arms = arms_of(name, data, "cluster")
    without_level = {arm.partition("@")[0] for arm in arms}
    assert {arm for pair in question.pairs for arm in pair} <= without_level
    assert question.baseline in without_level
    assert set(question.costly) <= set(arms)
    assert arms_of(name, data, "hour").keys() == arms.keys() - set(question.costly)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("prior-flows", {"prior"}),
        ("posterior-flows", {"guide", "inference"}),
        ("prior-or-posterior", {"prior", "guide", "encoder"}),  # the encoder makes up for missing parameters
        ("capacity", {"prior", "decoder"}),
        ("holes", {"prior", "second_stage"}),
        ("kl-weight", {"prior", "second_stage"}),
    ],
)
def test_pairs_differ_in_what_is_asked_alone(name: str, parts: set[str]) -> None:
    question = QUESTIONS[name]
    for data in question.data:
        arms = arms_of(name, data, "hour")
        for arm, against in question.contrasts(arms):
            one, other = arms[arm].to_dict(), arms[against].to_dict()
            assert {key for key, value in one.items() if value != other[key]} <= parts


@pytest.mark.parametrize("name", ["prior-or-posterior", "capacity"])
def test_parameters_match(name: str) -> None:
    """Counted on the built pairs, within 3 %; in `capacity` of the arms that have a flow or stand for it."""
    for data in set(QUESTIONS[name].data) & {"digits", "pinwheel"}:
        arms = arms_of(name, data, "hour")
        counts: dict[str, list[int]] = {}
        for arm, experiment in arms.items():
            if (name, arm) == ("capacity", "normal"):
                continue
            count = sum(p.numel() for part in experiment.build(loaded(data)) for p in part.parameters())
            assert count == count_parameters(experiment, loaded(data))
            counts.setdefault(arm.partition("@")[2], []).append(count)
        for alike in counts.values():
            assert len(alike) > 1
            assert max(alike) / min(alike) < 1.03


def test_flow_prior_and_flow_decoder_of_capacity_are_one_family() -> None:
    for data in QUESTIONS["capacity"].data:
        arms = arms_of("capacity", data, "hour")
        inside, prior = arms["in-decoder"], arms["prior-flow"]
        assert inside.decoder == FlowDecoder(prior.prior, prior.decoder)  # type: ignore[arg-type]


def test_every_kl_weight_has_every_kind_and_beta_1_is_the_question_of_holes() -> None:
    arms = arms_of("kl-weight", "digits", "hour")
    weights = {float(arm.partition("@")[2]): experiment.inference.kl_weight for arm, experiment in arms.items()}
    assert all(named == set_to for named, set_to in weights.items())
    assert len(arms) == 3 * len(weights) == 15
    holes = arms_of("holes", "digits", "hour")
    same = {"normal@1": "normal", "two-stage@1": "flow-two-stage", "joint@1": "flow-joint"}
    assert all(cell_name(arms[one]) == cell_name(holes[other]) for one, other in same.items())


def test_only_small_data_are_asked_about_several_decoder_widths() -> None:
    levels = {
        data: {arm.partition("@")[2] for arm in arms_of("prior-or-posterior", data, "hour")}
        for data in ("digits", "static-mnist")
    }
    assert levels == {"digits": {"narrow", "middle", "wide"}, "static-mnist": {"middle"}}


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_has_arms_on_other_data(name: str, coins: Experiment, coin_data: Dataset) -> None:
    """Data without labels, known evidence or an image, and networks that are wide enough to be widened."""
    arms = QUESTIONS[name].experiments(coins, "seconds", data=coin_data)
    assert arms.keys() >= {"gaussian"} or any(arm.startswith("normal") for arm in arms)
    assert {experiment.data for experiment in arms.values()} == {coins.data}
    assert {experiment.latent for experiment in arms.values()} == {coins.latent}
    assert BASES["digits"].data not in {experiment.data for experiment in arms.values()}
