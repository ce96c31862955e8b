"""Going on from a checkpoint: extended, stopped and changed trainings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_cases import FAST, equal, pair, values, weights

from flowvae import FlowvaeError
from flowvae.inference import Callback, Cosine, Fitted, Plateau, Step, Training, TrainingStopped, fit, load_checkpoint

X, V = values(40, 3), values(20, 3, seed=1)
COLUMNS = ["epoch", "train_elbo", "valid_elbo", "weight", "learning_rate", "kept"]


def trained(
    settings: Training, file: Path | None = None, callbacks: Sequence[Callback] = (), **given: Any
) -> tuple[nn.ModuleDict, Fitted]:
    parts = pair(3)
    how: dict[str, Any] = {"train": X, "valid": V, "seed": 0, **given}
    fitted = fit(
        parts["model"], parts["guide"], settings=settings, checkpoint=file, progress=False, callbacks=callbacks, **how
    )
    return parts, fitted


def same(one: tuple[nn.ModuleDict, Fitted], other: tuple[nn.ModuleDict, Fitted]) -> bool:
    rows = one[1].history[COLUMNS].equals(other[1].history[COLUMNS])
    return rows and equal(weights(one[0]), weights(other[0]))


@pytest.mark.parametrize("schedule", [FAST.schedule, Step(2, 0.5), Plateau(0.5, 0)])
@pytest.mark.parametrize("tempering", [0, 7])
def test_more_epochs_end_where_one_training_of_them_ends(schedule: Any, tempering: int, tmp_path: Path) -> None:
    settings = replace(FAST, learning_rate=0.5, schedule=schedule, tempering=tempering, epochs=8)
    whole = trained(settings, tmp_path / "whole")
    for epochs in (3, 5, 8):
        parted = trained(replace(settings, epochs=epochs), tmp_path / "part")
        assert len(parted[1].history) == epochs
    assert same(whole, parted)
    assert equal(load_checkpoint(tmp_path / "whole")[0], load_checkpoint(tmp_path / "part")[0])
    if schedule != FAST.schedule:
        assert whole[1].history["learning_rate"].nunique() > 1


def test_a_training_that_ended_by_patience_goes_on_with_more_of_it(tmp_path: Path) -> None:
    settings = replace(FAST, epochs=40, learning_rate=0.3, patience=2, compile="none")
    first = trained(settings, tmp_path / "c")
    assert len(first[1].history) < 30
    assert len(trained(replace(settings, epochs=41), tmp_path / "c")[1].history) == len(first[1].history)
    longer = replace(settings, patience=6)
    assert same(trained(longer, tmp_path / "c"), trained(longer))
    assert len(trained(longer)[1].history) > len(first[1].history)


@pytest.mark.parametrize("answer", [True, torch.ones(1, dtype=torch.bool).numpy()[0]])
def test_a_callback_stops_the_training_for_good(answer: Any, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []

    def stop(row: dict[str, float]) -> Any:
        rows.append(row)
        return answer if row["epoch"] == 2 else None

    settings = replace(FAST, epochs=6)
    stopped = trained(settings, tmp_path / "c", [stop, lambda row: row.clear()])
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert rows == stopped[1].history.drop(columns="kept").to_dict("records")
    three = trained(replace(settings, epochs=3))
    assert same(stopped, three)
    again = trained(settings, tmp_path / "c", [stop])
    assert same(again, three)
    assert len(rows) == 3
    assert same(trained(replace(settings, epochs=7), tmp_path / "c"), trained(replace(settings, epochs=7)))


@pytest.mark.parametrize("answer", [None, False, 1, "stop", torch.tensor(2.0)])
def test_what_is_not_true_does_not_stop_it(answer: Any) -> None:
    assert len(trained(FAST, callbacks=[lambda row: answer])[1].history) == FAST.epochs


def test_a_callback_that_stops_a_warm_up_leaves_no_best_weights(tmp_path: Path) -> None:
    settings = replace(FAST, kl_warmup=2)
    for _ in range(2):
        with pytest.raises(TrainingStopped, match="epoch 0"):
            trained(settings, tmp_path / "c", [lambda row: True])
    assert same(trained(replace(settings, epochs=4), tmp_path / "c"), trained(replace(settings, epochs=4)))


class BrokenError(Exception):
    """Somebody's own."""


@pytest.mark.parametrize("schedule", [Cosine(), Plateau(0.5, 0)])
def test_an_error_of_a_callback_surfaces_and_the_checkpoint_goes_on(schedule: Any, tmp_path: Path) -> None:
    error = BrokenError("mine")

    def fail(row: dict[str, float]) -> None:
        if row["epoch"] == 3:
            raise error

    settings = replace(FAST, epochs=6, learning_rate=0.05, schedule=schedule)
    with pytest.raises(BrokenError) as caught:
        trained(settings, tmp_path / "c", [fail])
    assert caught.value is error
    assert load_checkpoint(tmp_path / "c")[1]["progress"]["epoch"] == 3
    assert same(trained(settings, tmp_path / "c"), trained(settings))


@pytest.mark.parametrize(
    ("change", "held"),
    [
        ({"learning_rate": 0.5}, ["learning_rate", "0.5", "0.001", *Training.extendable]),
        ({"schedule": Step(2)}, ["schedule", "step", "constant"]),
        ({"kl_warmup": 1}, ["kl_warmup", "1", "0"]),
        ({"epochs": 2}, ["epochs", "2", "3"]),
    ],
)
def test_other_settings_do_not_go_on(change: dict[str, Any], held: list[str], tmp_path: Path) -> None:
    trained(FAST, tmp_path / "c")
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(FlowvaeError) as refused:
        trained(replace(FAST, **change), tmp_path / "c")
    assert all(text in str(refused.value) for text in held)
    assert (tmp_path / "c").read_bytes() == before


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ({"seed": 1}, ["seed", "0", "1"]),
        ({"train": X[:-1]}, ["train", "[40, 3]", "[39, 3]"]),
        ({"valid": V[:-1]}, ["valid", "[20, 3]", "[19, 3]"]),
        ({"objective": lambda batch: batch.x.sum()}, ["objective", "ELBO", "own"]),
    ],
)
def test_another_training_does_not_go_on(given: dict[str, Any], held: list[str], tmp_path: Path) -> None:
    trained(FAST, tmp_path / "c")
    with pytest.raises(FlowvaeError) as refused:
        trained(FAST, tmp_path / "c", **given)
    assert all(text in str(refused.value) for text in held)


def test_a_schedule_that_spans_the_training_is_not_extended(tmp_path: Path) -> None:
    settings = replace(FAST, schedule=Cosine())
    trained(settings, tmp_path / "c")
    with pytest.raises(FlowvaeError) as refused:
        trained(replace(settings, epochs=6), tmp_path / "c")
    assert all(text in str(refused.value) for text in ("Cosine", "epochs", "6", "3"))
    trained(replace(settings, patience=7), tmp_path / "c")


def test_the_machine_may_change_and_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    trained(FAST, tmp_path / "c")
    before = (tmp_path / "c").read_bytes()
    trained(replace(FAST, device="auto", checkpoint_seconds=3.0), tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == before


def test_facts_are_compared_as_asked_and_stored_as_given(tmp_path: Path) -> None:
    def alike(stored: Any, given: Any) -> bool:
        return bool(stored["pair"] == given["pair"])

    trained(FAST, tmp_path / "c", facts={"pair": [1], "note": "old"}, same=alike)
    trained(FAST, tmp_path / "c", facts={"pair": (1,), "note": "new"}, same=alike)
    assert load_checkpoint(tmp_path / "c")[1]["settings"] == {"pair": [1], "note": "new"}
    with pytest.raises(FlowvaeError):
        trained(FAST, tmp_path / "c", facts={"pair": (2,), "note": "new"}, same=alike)


def test_the_decay_of_the_prior_is_that_of_its_parameters() -> None:
    """With gradients of zero Adam only decays: p ← p (1 − rate · decay) a step."""
    parts = pair(3)
    before = weights(parts)

    def loss(batch: Any) -> Tensor:
        return sum(p.sum() * 0 for p in parts.parameters())  # type: ignore[return-value]

    settings = replace(FAST, epochs=1, batch_size=40, learning_rate=0.1, weight_decay=0.5, prior_decay=2.0)
    fit(parts["model"], parts["guide"], X, V, settings, progress=False, objective=loss)
    for name, value in weights(parts).items():
        decay = 2.0 if name == "model.prior.weight" else 0.5
        torch.testing.assert_close(value, before[name] * (1 - 0.1 * decay))
