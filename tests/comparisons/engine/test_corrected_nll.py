"""The corrected NLL is that of AIS where AIS judged everything, and K draws plus its difference elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flowvae import Arrays, Experiment, FlowvaeError, Mixture, Training
from flowvae.comparisons import BASES, Preset, Question
from flowvae.comparisons.engine.answer import answer
from flowvae.comparisons.engine.corrected_nll import corrected_nll, main
from flowvae.experiments.run import load
from flowvae.networks import MLP


def test_where_ais_judged_all_data_it_has_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 2, (80, 5)))
    data = Arrays(tmp_path / "x.npy", likelihood="bernoulli")
    inference = Training(epochs=1, device="cpu")
    base = Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,)), inference=inference, data=data)
    monkeypatch.setitem(BASES, "small", base)
    question = Question(
        "q",
        "Q?",
        lambda base, data: {"normal": base, "mixture": replace(base, prior=Mixture(2))},
        baseline="normal",
        data=("small",),
        measures=("gaps",),
    )
    found = answer(question, "small", Preset(2, 1, 20), tmp_path, progress=False)
    table = corrected_nll(found.directory)
    cells = [load(tmp_path / "cells" / cell) for cell in found.grid.table["cell"]]
    assert {run.metric("nll_ais").protocol["rows"] for run in cells} == {len(cells[0].data.test)}  # all of them
    assert list(table["corrected"]) == pytest.approx([run.metric("nll_ais").value for run in cells], abs=1e-4)
    assert list(table["nll"]) == pytest.approx([run.metric("nll").value for run in cells])
    assert (table["too_much"].abs() > 1e-3).all()  # there was something to correct


def test_a_directory_without_an_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FlowvaeError, match="no answer in it"):
        corrected_nll(tmp_path)


@pytest.mark.parametrize("cell", ["../../../secret", "/etc", "..", "", "link"])
def test_a_cell_is_a_name_and_not_a_path(cell: str, tmp_path: Path) -> None:
    place = tmp_path / "out" / "answer"
    place.mkdir(parents=True)
    (place.parent / "cells").mkdir()
    (place.parent / "cells" / "link").symlink_to(tmp_path)
    (place / "answer.json").write_text("{}")
    (place / "table.csv").write_text(f"arm,seed,cell\nnormal,0,{cell}\n")
    with pytest.raises(FlowvaeError, match=r"cell|leads out of"):
        corrected_nll(place)


@pytest.mark.parametrize("content", ["[]", "{}", '{"question": "nonsense"}', '{"question": []}', "\x00", "[" * 5000])
def test_a_damaged_answer_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "answer.json").write_text(content)
    with pytest.raises(FlowvaeError, match="damaged"):
        main([str(tmp_path)])
    (tmp_path / "table.csv").write_text("arm,seed\nnormal,0\n")
    with pytest.raises(FlowvaeError, match="damaged"):
        corrected_nll(tmp_path)
