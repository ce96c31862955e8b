"""The hidden part stays hidden, the review names what is unfair, and the hidden part is opened once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowvae import MAF, Experiment, FlowvaeError, SecondStage, Training, load
from flowvae.comparisons import QUESTIONS, Answer, Preset, Question, answer
from flowvae.comparisons.engine.parameter_matching import count_parameters, widen_decoder, widen_encoder
from flowvae.course.capstone import Project, seal
from flowvae.data import Dataset
from flowvae.flows import IAF
from flowvae.guides import FlowGuide
from flowvae.models import Mixture
from flowvae.networks import MLP

X = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
Arms = Callable[[Experiment, Dataset], Mapping[str, Experiment]]


@pytest.fixture(autouse=True)
def questions_as_they_were() -> Iterator[None]:
    before = dict(QUESTIONS)
    yield
    QUESTIONS.clear()
    QUESTIONS.update(before)


def project_in(folder: Path) -> tuple[Project, Experiment]:
    project = seal(X, "gaussian", folder)
    small = MLP((32,))
    training = Training(epochs=1, batch_size=36, validation_draws=1)
    return project, Experiment(latent=2, encoder=small, decoder=small, data=project.data, inference=training)


def equal_arms(base: Experiment, data: Dataset) -> dict[str, Experiment]:
    flow = replace(base, prior=MAF(1, (16,)))
    return {"normal": widen_encoder(base, data, count_parameters(flow, data)), "flow": flow}


def question_of(arms: Arms = equal_arms, text: str = "Prior?\nI predict: yes.", **settings: Any) -> Question:
    return Question("test-capstone", text, arms, baseline="normal", **settings)


def test_the_hidden_part_is_in_no_split(tmp_path: Path) -> None:
    project, _ = project_in(tmp_path)
    data = project.data.load(0)
    assert data.test is data.valid
    seen = {tuple(row) for part in (data.train, data.valid) for row in data.original(part).float().tolist()}
    hidden = {tuple(row) for row in project.sealed.original(project.sealed.test).float().tolist()}
    assert len(hidden) == 12
    assert not seen & hidden
    assert len(seen | hidden) == len(X)
    assert project.data.load(1).identity == data.identity  # the same parts for every seed
    assert seal(X, "gaussian", tmp_path).data == project.data
    assert seal(X, "gaussian", tmp_path, seed=1).data != project.data


def test_labels_go_along(tmp_path: Path) -> None:
    names = np.array(["low" if row.sum() < 0 else "high" for row in X])
    project = seal(torch.tensor(X), "gaussian", tmp_path, labels=names)
    for data in (project.sealed, project.data.load(0)):
        assert data.labels is not None
        for split in ("train", "valid", "test"):
            high = data.original(getattr(data, split)).sum(1) >= 0
            assert [data.classes[int(label)] == "high" for label in data.labels[split]] == high.tolist()


@pytest.mark.parametrize("shares", [{"hidden": 0.0}, {"valid": 1.0}, {"hidden": 0.6, "valid": 0.5}])
def test_shares_are_checked(shares: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(FlowvaeError, match="share of the data"):
        seal(X, "gaussian", tmp_path, **shares)


def test_a_fair_plan_loses_nothing(tmp_path: Path) -> None:
    project, base = project_in(tmp_path)
    found = project.review(question_of(), base, Preset(seeds=5, epochs=1, draws=5))
    assert found
    assert "10 of 10 points" in repr(found)


def with_control(base: Experiment, data: Dataset) -> dict[str, Experiment]:
    flow = replace(base, prior=MAF(1, (16,)))
    return {"normal": base, "flow": flow, "wider": widen_decoder(base, data, count_parameters(flow, data))}


def test_a_control_replaces_equal_parameters(tmp_path: Path) -> None:
    project, base = project_in(tmp_path)
    preset = Preset(seeds=5, epochs=1, draws=5)
    assert project.review(question_of(with_control, pairs=(("flow", "wider"),)), base, preset)
    lost = project.review(question_of(with_control), base, preset)  # the pair is not compared
    assert "flow has" in repr(lost)


def two_things(base: Experiment, data: Dataset) -> dict[str, Experiment]:
    return {"normal": base, "both": replace(base, prior=Mixture(), guide=FlowGuide(IAF(1, (16,))))}


def longer(base: Experiment, data: Dataset) -> dict[str, Experiment]:
    arms = equal_arms(base, data)
    return arms | {"flow": replace(arms["flow"], inference=replace(base.inference, learning_rate=0.1))}


def staged(base: Experiment, data: Dataset) -> dict[str, Experiment]:
    return {"normal": base, "second": replace(base, second_stage=SecondStage(Mixture(2)))}


def twice(base: Experiment, data: Dataset) -> dict[str, Experiment]:
    return {"normal": base, "again": replace(base)}


def without_baseline(base: Experiment, data: Dataset) -> dict[str, Experiment]:
    return {"flow": replace(base, prior=MAF()), "mixture": replace(base, prior=Mixture())}


@pytest.mark.parametrize(
    ("settings", "seeds", "reason", "points"),
    [
        ({"arms": two_things}, 5, "both differs from normal in prior and guide", 6),
        ({"arms": longer}, 5, "flow trains with learning_rate = 0.1", 9),
        ({"arms": twice}, 5, "again and normal are the same experiment", 8),
        ({"arms": staged}, 5, "second has one more stage of training", 7),
        ({"arms": without_baseline}, 5, "no arm 'normal'", 7),
        ({}, 3, "3 seeds", 9),
        ({"text": "Prior?\nTwo arms."}, 5, "no prediction", 9),
        ({"measure": "fid"}, 5, "primary measure is fid", 9),
        ({"secondary": ("nll",)}, 5, "both primary and secondary", 9),
    ],
)
def test_what_is_unfair_is_named(
    settings: dict[str, Any], seeds: int, reason: str, points: int, tmp_path: Path
) -> None:
    project, base = project_in(tmp_path)
    found = project.review(question_of(**settings), base, Preset(seeds=seeds, epochs=1, draws=5))
    assert not found
    assert reason in repr(found)
    assert f"{points} of 10 points" in repr(found)


def test_other_data_are_named(tmp_path: Path) -> None:
    project, base = project_in(tmp_path)
    other = replace(base, data=seal(X, "gaussian", tmp_path, seed=1).data)
    found = project.review(question_of(), other, Preset(seeds=5, epochs=1, draws=5))
    assert [rule.name for rule in found.rules if rule.reason] == ["the hidden part is out of sight"]


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Experiment, Answer]:
    project, base = project_in(tmp_path_factory.mktemp("capstone"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = answer(question_of(unit="nats per point"), base, Preset(2, 1, 200), project.folder, progress=False)
    return project, base, found


def test_it_is_opened_once(answered: tuple[Project, Experiment, Answer], tmp_path: Path) -> None:
    project, base, found = answered
    first = project.open_hidden(found)
    assert not first.again
    hidden = project.sealed.test
    for row in first.table.itertuples():
        cell = found.grid.table.query("arm == @row.arm and seed == @row.seed")["cell"].item()
        run = load(project.folder / "cells" / cell)
        with torch.no_grad():
            expected = -run.log_prob(project.sealed.original(hidden), draws=1000).mean()
        assert row.nll == pytest.approx(float(expected), abs=0.1)
    nll = first.table.pivot(index="seed", columns="arm", values="nll")
    assert first.differences["difference"].item() == pytest.approx((nll["flow"] - nll["normal"]).mean())
    assert len(first.sentences) == 1
    assert "nats per point" in first.sentences[0]

    again = project.open_hidden(found)
    assert again.again
    assert again.opened == first.opened
    assert again.table.equals(first.table)
    assert "opened before" in repr(again)

    changed = question_of(text="Prior?\nI predict: no.", unit="nats per point")
    other = answer(changed, base, Preset(2, 1, 200), project.folder, progress=False)
    with pytest.raises(FlowvaeError, match="predicts changed since"):
        project.open_hidden(other)
    fewer = replace(found, differences={"nll": found.differences["nll"].iloc[:0]})
    with pytest.raises(FlowvaeError, match="pairs"):
        project.open_hidden(fewer)


def test_what_cannot_be_opened(answered: tuple[Project, Experiment, Answer], tmp_path: Path) -> None:
    project, _, found = answered
    closed = replace(project, folder=tmp_path)  # with no record
    lost = found.grid.table.head(1).assign(error="the gradient is inf.")
    failed = replace(found, grid=replace(found.grid, failed=lost))
    with pytest.raises(FlowvaeError, match=r"1 runs failed, the first \(normal, seed 0\) with: the gradient is inf\."):
        closed.open_hidden(failed)
    elsewhere = replace(closed, data=seal(X, "gaussian", tmp_path, seed=1).data)
    with pytest.raises(FlowvaeError, match="other data"):
        elsewhere.open_hidden(found)
    assert not list(tmp_path.iterdir())
