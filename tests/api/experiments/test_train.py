"""Training without a directory, and what is refused before training into one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Size, Tensor, nn

from flowvae import (
    MAF,
    Experiment,
    FlowvaeError,
    Mixture,
    NetworkSpec,
    Pinwheel,
    SecondStage,
    Training,
    as_data,
    load,
    train,
)
from flowvae.data import Dataset, DataSpec
from flowvae.inference import Bidirectional
from flowvae.models import BernoulliLikelihood
from flowvae.networks import MLP

HOW: dict[str, Any] = {"draws": 5, "figures": False, "progress": False}
QUICK = Training(epochs=2, batch_size=64, device="cpu")
ONE = Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,)), inference=QUICK, data=Pinwheel(200, 50, 50))
TWO = replace(ONE, second_stage=SecondStage(MAF(1, (8,)), QUICK, fine_tune=True))


class Features(nn.Module):
    """An encoder of one's own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu()


@dataclass(frozen=True)
class Narrow(NetworkSpec):
    """A network without a name."""

    width: int = 4

    def build(self, inputs: Size, outputs: Size | None = None, context: int = 0) -> nn.Module:
        return MLP((self.width,)).build(inputs, outputs, context)


@dataclass(frozen=True)
class Held(DataSpec):
    """Data without a name; two such objects cannot be compared by ==."""

    x: np.ndarray

    def load(self, seed: int) -> Dataset:
        x = torch.as_tensor(self.x, dtype=torch.get_default_dtype())
        return Dataset(x[:40], x[40:50], x[50:], BernoulliLikelihood(), "held", "none", "in order")


@dataclass(frozen=True)
class Shift(MAF):
    """A flow without a name."""


HELD = Held(np.random.default_rng(0).integers(0, 2, (60, 3)))
UNNAMED: dict[str, Callable[[], Experiment]] = {
    "encoder": lambda: replace(ONE, encoder=Features()),
    "decoder": lambda: replace(ONE, decoder=Narrow()),
    "data": lambda: replace(ONE, data=HELD),
    "prior": lambda: replace(ONE, prior=Shift()),
    "second_stage": lambda: replace(ONE, second_stage=SecondStage(Shift(), QUICK)),
}


@pytest.mark.parametrize("part", UNNAMED)
def test_what_has_no_name_is_trained_and_not_stored(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = UNNAMED[part]()
    run = train(experiment, progress=False)
    assert len(run.history) == 2
    assert run.metrics == []
    taken = run.evaluate(draws=5, progress=False)
    assert {"elbo", "nll"} <= {metric.name for metric in taken}
    assert run.metrics == taken
    assert run.encode(run.data.test).shape == (len(run.data.test), 2)
    assert run.sample(3).shape == (3, *run.data.shape)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the long work began")

    monkeypatch.setattr("flowvae.experiments.train.fit", never)
    for ask in (lambda: train(experiment, tmp_path / "run", **HOW), lambda: run.export(tmp_path / "run.safetensors")):
        with pytest.raises(FlowvaeError, match=rf"Experiment\.{part}.*without a directory") as info:
            ask()
        assert "\n" not in str(info.value)
    assert not list(tmp_path.iterdir())


def test_a_training_without_a_directory_is_that_of_one_with_a_directory(tmp_path: Path) -> None:
    run, stored = train(TWO, progress=False), train(TWO, tmp_path / "run", **HOW)
    for part, other in zip(run.pair, stored.pair, strict=True):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in part.state_dict().items())
    assert len(run.whole_history) == len(stored.whole_history) == 6
    columns = ["epoch", "train_elbo", "valid_elbo", "kept"]
    assert run.whole_history[columns].equals(stored.whole_history[columns])
    assert run.history[columns].equals(stored.history[columns])
    with pytest.raises(FlowvaeError, match="nothing has been measured"):
        run.metric("nll")
    assert run.evaluate(draws=5, progress=False) == load(tmp_path / "run").metrics == run.metrics
    again = run.evaluate(draws=6, progress=False)
    assert run.metrics == again
    assert run.metric("nll").protocol["draws"] == 6
    with pytest.raises(FlowvaeError, match="figures"):
        run.evaluate(measures=["activity"], figures=True)


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_without_a_directory_there_is_nothing_to_go_on_with(how: str) -> None:
    with pytest.raises(FlowvaeError, match=f"{how} = True"):
        train(ONE, **{how: True})


def test_a_training_refused_in_its_first_step_leaves_no_run_behind(tmp_path: Path) -> None:
    """Draws of a mixture have no gradient, which the objective needs; the corrected experiment needs no overwrite."""
    wrong = replace(ONE, prior=Mixture(2), inference=replace(QUICK, objective=Bidirectional()))
    with pytest.raises(FlowvaeError, match="not reparametrized"), pytest.warns(UserWarning, match="bidirectional"):
        train(wrong, tmp_path / "run", **HOW)
    assert not (tmp_path / "run" / "experiment.yaml").exists()
    train(ONE, tmp_path / "run", **HOW)


def test_what_is_to_go_on_keeps_its_settings_when_refused(tmp_path: Path) -> None:
    wrong = replace(ONE, prior=Mixture(2), inference=replace(QUICK, objective=Bidirectional()))
    (tmp_path / "run").mkdir()
    wrong.to_yaml(tmp_path / "run" / "experiment.yaml")  # as if killed before the first checkpoint
    with pytest.raises(FlowvaeError, match="not reparametrized"), pytest.warns(UserWarning, match="bidirectional"):
        train(wrong, tmp_path / "run", resume=True, **HOW)
    assert (tmp_path / "run" / "experiment.yaml").is_file()


def test_a_callback_stops_a_stored_training(tmp_path: Path) -> None:
    seen: list[float] = []

    def stop(row: dict[str, Any]) -> bool:
        seen.append(row["valid_elbo"])
        return True

    run = train(ONE, tmp_path / "run", callbacks=[stop], **HOW)
    assert seen == run.history["valid_elbo"].tolist()
    assert len(seen) == 1
    assert load(tmp_path / "run").metrics == run.metrics


def test_the_stages_of_a_mixture_share_no_history(tmp_path: Path) -> None:
    run = train(replace(ONE, second_stage=SecondStage(Mixture(2), QUICK)), progress=False)
    assert [len(history) for history in run.histories] == [2, 2]


@pytest.mark.parametrize("likelihood", ["image-flow", "pixelcnn:16"])
def test_likelihoods_of_images_refuse_a_table(likelihood: str) -> None:
    x = np.random.default_rng(0).integers(0, 17, (40, 3))
    experiment = replace(ONE, data=as_data(x, likelihood))
    with pytest.raises(FlowvaeError, match=r"images \(C, H, W\)"):
        train(experiment, None, progress=False)
