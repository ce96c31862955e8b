"""Every question's arms are valid and differ in what is asked, and an answer leaves what a report needs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from flowvae import FlowvaeError, Mixture
from flowvae.comparisons import QUESTIONS
from flowvae.comparisons.answer import answer
from flowvae.comparisons.question import BASES, PRESETS, Question
from flowvae.data import Arrays
from flowvae.experiment import Experiment
from flowvae.inference import Inference
from flowvae.networks import MLP

CASES = [(name, data) for name, question in QUESTIONS.items() for data in question.data]


@pytest.mark.parametrize(("name", "data"), CASES)
@pytest.mark.parametrize("preset", PRESETS)
def test_arms_are_experiments_that_can_start(name: str, data: str, preset: str) -> None:
    question = QUESTIONS[name]
    arms = question.experiments(data, preset)
    assert question.baseline in arms
    assert question.name == name
    assert question.asks.endswith((".", "?"))
    assert "theory predicts" in question.predicts
    for arm, against in question.contrasts(arms):
        assert {arm, against} <= set(arms)
    for experiment in arms.values():
        assert Experiment.from_dict(experiment.to_dict()) == experiment
        experiment.inference.check_steps(1257 if data == "digits" else 10_000)
        assert experiment.inference.epochs <= PRESETS[preset].epochs


@pytest.mark.parametrize(("name", "part"), [("prior-flows", {"prior"}), ("posterior-flows", {"guide", "inference"})])
def test_arms_differ_in_what_is_asked_alone(name: str, part: set[str]) -> None:
    arms = QUESTIONS[name].experiments("digits", "hour")
    base = arms[QUESTIONS[name].baseline].to_dict()
    for arm in arms.values():
        assert {key for key, value in arm.to_dict().items() if value != base[key]} <= part


def test_an_answer_leaves_tables_words_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.rand(60, 5, generator=torch.Generator().manual_seed(0)).round()
    file = tmp_path / "x.npy"
    import numpy as np

    np.save(file, rows.numpy())
    base = Experiment(
        latent=2,
        encoder=MLP((8,)),
        decoder=MLP((8,)),
        inference=Inference(epochs=50, device="cpu"),
        data=Arrays(file, likelihood="bernoulli"),
    )
    monkeypatch.setitem(BASES, "coins", base)
    monkeypatch.setitem(PRESETS, "tiny", replace(PRESETS["minutes"], epochs=2, draws=20))
    question = Question(
        "coins",
        "Does a mixture help with coins?\n\nWhat theory predicts: nothing.",
        lambda base: {"normal": base, "mixture": replace(base, prior=Mixture(2))},
        baseline="normal",
        data=("coins",),
    )
    result = answer(question, "coins", "tiny", tmp_path, progress=False)
    assert result.directory == tmp_path / "coins-coins-tiny"
    assert {file.name for file in result.directory.iterdir()} == {
        "answer.json",
        "differences-elbo.csv",
        "differences-nll.csv",
        "differences.png",
        "failed.csv",
        "table.csv",
    }
    protocol = json.loads((result.directory / "answer.json").read_text())
    assert protocol["asks"] == "Does a mixture help with coins?"
    assert protocol["seeds"] == [0, 1]
    assert protocol["sentences"] == result.sentences
    stored = pd.read_csv(result.directory / "differences-nll.csv")
    table = pd.read_csv(result.directory / "table.csv").pivot(index="seed", columns="arm", values="nll")
    assert stored["difference"].iloc[0] == pytest.approx((table["mixture"] - table["normal"]).mean())
    with pytest.raises(FlowvaeError, match="is not asked on 'digits'"):
        answer(question, "digits", "tiny", tmp_path)
    with pytest.raises(FlowvaeError, match="did you mean minutes"):
        answer(question, "coins", "minute", tmp_path)
