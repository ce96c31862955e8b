"""A question registers by its definition, and is asked of any base experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from flowvae import FlowvaeError, Mixture
from flowvae.comparisons import QUESTIONS, Question, question_of
from flowvae.data import Dataset
from flowvae.experiments.experiment import Experiment


def two_arms(base: Experiment, data: Dataset) -> Mapping[str, Experiment]:
    return {"normal": base, "mixture": replace(base, prior=Mixture(2))}


def test_a_question_is_known_once_it_is_defined() -> None:
    question = Question("my-question", "Mine?", two_arms, baseline="normal")
    assert QUESTIONS["my-question"] is question_of("my-question") is question_of(question) is question
    with pytest.raises(FlowvaeError, match=r"'my-qestion'.*my-question"):
        question_of("my-qestion")


def test_a_copy_with_other_settings_is_not_the_question_of_that_name() -> None:
    question = QUESTIONS["capacity"]
    assert replace(question, secondary=()).secondary == ()
    assert QUESTIONS["capacity"] is question


def test_a_definition_that_runs_again_replaces_the_first_one() -> None:
    Question("my-question", "Mine?", lambda base, data: {}, baseline="a")
    again = Question("my-question", "Mine?", lambda base, data: {}, baseline="b")
    assert QUESTIONS["my-question"] is again


def test_a_name_of_another_module_is_refused() -> None:
    with pytest.raises(FlowvaeError, match=r"'capacity'.*flowvae\.comparisons\.questions\.capacity"):
        Question("capacity", "Mine?", two_arms, baseline="normal")
    assert QUESTIONS["capacity"].module == "flowvae.comparisons.questions.capacity"
    with pytest.raises(FlowvaeError, match="'a/b'"):
        Question("a/b", "Mine?", two_arms, baseline="normal")


def test_what_a_question_needs_of_the_data_is_asked_for(coins: Experiment) -> None:
    question = Question("my-question", "Mine?", two_arms, baseline="normal", needs=("labels", "log_evidence"))
    with pytest.raises(FlowvaeError, match=r"labels and log_evidence.*coins\.npy.*digits"):
        question.experiments(coins)
    with pytest.raises(FlowvaeError, match=r"log_evidence.*digits"):
        question.experiments("digits")
    assert replace(question, needs=("labels",)).experiments("digits").keys() == {"normal", "mixture"}


def test_contrasts_stay_at_their_level() -> None:
    question = Question("q", "Q?", lambda base, data: {}, baseline="a", pairs=(("b", "c"),))
    arms = dict.fromkeys(("a", "b", "c"), Experiment())
    assert question.contrasts(arms) == [("b", "a"), ("c", "a"), ("b", "c")]
    arms = dict.fromkeys((f"{arm}@{level}" for level in (1, 2) for arm in "abc"), Experiment())
    assert question.contrasts(arms) == [
        *(("b@1", "a@1"), ("c@1", "a@1"), ("b@2", "a@2"), ("c@2", "a@2")),
        *(("b@1", "c@1"), ("b@2", "c@2")),
    ]
