"""Trackers: what they are told, and TensorBoard's files."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_cases import FAST, pair, values

from flowvae import FlowvaeError
from flowvae.inference import Fitted, TensorBoardTracker, Tracker, Training, fit

X = values(40, 3)


class Notes:
    """Everything that it is told, in order."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def start(self, settings: dict[str, Any]) -> None:
        self.told.append(dict(settings))
        settings.clear()  # theirs to change

    def log(self, row: dict[str, float]) -> None:
        self.told.append(dict(row))
        row.clear()  # theirs to change

    def finish(self) -> None:
        self.told.append("finish")


def trained(settings: Training, tracker: Tracker, file: Path | None = None, **given: Any) -> Fitted:
    parts = pair(3)
    how = {"seed": 7, "facts": {"is": 1}, "progress": False, **given}
    return fit(parts["model"], parts["guide"], X, X, settings, checkpoint=file, trackers=[tracker], **how)


def test_settings_then_each_row_then_the_end(tmp_path: Path) -> None:
    first, second = Notes(), Notes()
    trained(FAST, first, tmp_path / "c")
    fitted = trained(replace(FAST, epochs=5), second, tmp_path / "c")
    settings, *rows, end = first.told + second.told[1:-1] + ["finish"]
    assert settings["training"]["epochs"] == 3
    assert settings["seed"] == 7
    assert settings["settings"] == {"is": 1}
    assert second.told[0]["training"]["epochs"] == 5
    assert rows.pop(3) == "finish"
    assert rows == fitted.history.drop(columns="kept").to_dict("records")
    assert end == second.told[-1]


def test_the_end_is_told_when_the_training_raises() -> None:
    notes = Notes()

    def fail(row: dict[str, float]) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        trained(FAST, notes, callbacks=[fail])
    assert len(notes.told) == 3
    assert notes.told[-1] == "finish"


def test_only_what_was_started_is_finished() -> None:
    class Fails(Notes):
        def start(self, settings: dict[str, Any]) -> None:
            raise OSError("no network")

    notes, fails = Notes(), Fails()
    parts = pair(3)
    with pytest.raises(OSError, match="no network"):
        fit(parts["model"], parts["guide"], X, X, FAST, progress=False, trackers=[notes, fails])
    assert notes.told[1:] == ["finish"]
    assert fails.told == []


def test_without_tensorboard_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(FlowvaeError, match=r"flowvae\[tensorboard\]"):
        TensorBoardTracker(tmp_path)


@pytest.mark.filterwarnings("ignore")  # TensorBoard's own
def test_tensorboard_holds_the_history(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def fail(row: dict[str, float]) -> None:
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    settings = replace(FAST, epochs=6)
    with pytest.raises(KeyboardInterrupt):  # epoch 3 is logged, and lost to the checkpoint
        trained(settings, TensorBoardTracker(tmp_path / "logs"), tmp_path / "c", callbacks=[fail])
    history = trained(settings, TensorBoardTracker(tmp_path / "logs"), tmp_path / "c").history
    found = EventAccumulator(str(tmp_path / "logs")).Reload()
    for name in ("train_elbo", "valid_elbo", "weight", "learning_rate", "seconds"):
        events = found.Scalars(name)
        assert [event.step for event in events] == list(range(6))
        assert [event.value for event in events] == pytest.approx(list(history[name]), rel=1e-6)
    (text,) = [found.Tensors(tag)[-1] for tag in found.Tags()["tensors"] if tag.startswith("settings")]
    assert b'"epochs": 6' in text.tensor_proto.string_val[0]
    assert all(math.isfinite(event.value) for event in found.Scalars("seconds"))
