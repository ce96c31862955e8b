"""Bars of long work: where they appear, that they count all of it, and that they change nothing."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from bars import Bars, Terminal
from torch import Tensor
from trained_cases import data, exact
from training_cases import Rows

from flowvae import Experiment
from flowvae.core import progress
from flowvae.core.progress import bar
from flowvae.data import Dataset, Moons
from flowvae.data.access import blocks
from flowvae.data.files.torch_items import TorchSource, part_of_items
from flowvae.data.sources import array_blocks
from flowvae.evaluation import Scene, compare_features, draw_figures, fid_at_sizes, importance_sample
from flowvae.evaluation.likelihood.importance_sampling import importance_sample_each
from flowvae.experiments.assemble import ModelGuide
from flowvae.inference.compile.native import NativeProgram
from flowvae.networks import MLP

MANY = data(7)
X = torch.as_tensor(MANY, dtype=torch.float32)
ITEMS = [(x, number % 2) for number, x in enumerate(X)]
HISTORY = pd.DataFrame({"epoch": [0], "train_elbo": [-1.0], "valid_elbo": [-1.0], "weight": [1.0], "kept": [True]})


@cache
def plane() -> tuple[ModelGuide, Dataset]:
    torch.manual_seed(0)
    moons = Moons().load(0)
    return Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,))).build(moons), moons


def weighed(_: Any) -> Tensor:
    return importance_sample(*exact().pair, X, draws=4000, chunk=1000).log_weight


def features(seed: int) -> Tensor:
    return torch.randn(40, 2, generator=torch.Generator().manual_seed(seed))


def distances(_: Any) -> Any:
    return torch.tensor(list(compare_features(features(0), features(1), groups=4, progress=True).values()))


def compiled(_: Any) -> Tensor:
    """Waiting for a compiler that is done at the third look."""

    class Slow(NativeProgram):
        looks: ClassVar[list[bool]] = []

        def __init__(self) -> None:
            self.looks.clear()
            self._process = SimpleNamespace(poll=lambda: None)  # type: ignore[assignment]

        def compile(self) -> None:
            pass

        def load(self) -> None:
            pass

        @property
        def ready(self) -> bool:
            self.looks.append(len(self.looks) == 2)
            return self.looks[-1]

    Slow().wait()
    return torch.tensor(Slow.looks)


# work of several units with a size of blocks that makes them several, and its bars: description, units
WORK: dict[str, tuple[Callable[[Path], Any], str, list[tuple[str, int | None]]]] = {
    "source": (lambda _: torch.cat(list(blocks(Rows(X)))), "data.access.VALUES", [("reading data", 3)]),
    "array": (lambda _: np.concatenate(list(array_blocks(MANY))), "data.sources.VALUES", [("reading data", 3)]),
    "items": (lambda _: part_of_items(ITEMS)[0].x, "data.files.torch_items.ROWS", [("reading data", 2)]),
    "labels": (lambda _: TorchSource(ITEMS).labels(), "data.files.torch_items.ROWS", [("reading labels", 2)]),
    "features": (distances, "", [("feature distances", 5)]),
    "fid": (
        lambda _: fid_at_sizes(features(0), features(1), (5, 9), 3, progress=True).fid.to_numpy(),
        "",
        [("FID of subsets", 6)],
    ),
    "importance": (weighed, "", [("draws of the guide", 4000), ("their density under the model", 4000)]),
    "each": (
        lambda _: importance_sample_each(*exact().pair, X, 1000).log_weight,
        "",
        [("1000 draws per data point", 4)],
    ),
    "explorer": (lambda _: Scene(*plane()[0], plane()[1]).log_prior, "", [("aggregated posterior", 8)]),
    "figures": (
        lambda place: [path.name for path in draw_figures(*plane()[0], plane()[1], HISTORY, place, 0, True)],
        "",
        [("figures", 4)],
    ),
    "codes": (lambda _: exact().encode(MANY), "experiments.trained_model.BLOCK", [("codes", 2)]),
    "reconstructions": (
        lambda _: exact().reconstruct(MANY),
        "experiments.trained_model.BLOCK",
        [("codes", 2), ("means", 2)],
    ),
    "samples": (lambda _: exact().sample(7), "experiments.trained_model.BLOCK", [("new data", 2)]),
    "log_prob": (lambda _: exact().log_prob(MANY, draws=1000), "", [("log p(x)", 4)]),
    "classes": (lambda _: exact(conditional=True).classify(MANY, draws=500), "", [("classes", 4)]),
    "ways": (
        lambda _: exact().interpolate(MANY, MANY[::-1], steps=3),
        "experiments.trained_model.BLOCK",
        [("codes", 2), ("codes", 2), ("ways between codes", 2)],
    ),
    "compiler": (compiled, "", [("compiling", None)]),
}
SIZES = {"VALUES": 9, "ROWS": 4, "BLOCK": 4}  # three rows of three values; four rows


@pytest.mark.parametrize("name", WORK)
def test_long_work_has_a_bar_that_counts_it_and_changes_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    work, size, expected = WORK[name]
    if size:
        monkeypatch.setattr(f"flowvae.{size}", SIZES[size.rpartition(".")[2]])
    monkeypatch.setattr("flowvae.evaluation.figures.run_plots.write_figure", lambda *_: None)  # takes seconds
    silent = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(progress, "DELAY", 0.0)
        patch.setattr(sys, "stderr", silent)
        before = work(tmp_path)
    assert silent.getvalue() == ""  # a log file
    bars = Bars(monkeypatch)
    after = work(tmp_path)
    assert [(what, total) for what, _, total in bars.ended] == expected
    assert all(done == total for _, done, total in bars.ended if total is not None)
    assert all(what in bars.terminal.getvalue() for what, _ in expected)
    assert np.array_equal(np.asarray(before), np.asarray(after))


@pytest.mark.parametrize("quiet", ["no terminal", "short", "unwanted", "one unit", "another process"])
def test_where_no_bar_appears(quiet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def written(quiet: str = "") -> str:
        stream = io.StringIO() if quiet == "no terminal" else Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            patch.setattr(progress, "DELAY", 3600.0 if quiet == "short" else 0.0)
            patch.setattr(progress, "parent_process", lambda: "grid" if quiet == "another process" else None)
            units = range(1 if quiet == "one unit" else 3)
            count = partial(bar, "work", "unit", len(units), progress=quiet != "unwanted")
            assert list(count(units)) == list(units)
            with count() as shown:
                for _ in units:
                    shown.update()
        return stream.getvalue()

    assert "work" in written()
    assert written(quiet) == ""


def test_a_bar_without_an_end_shows_the_time_that_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = Bars(monkeypatch)
    with bar("work", "unit", None) as shown:
        shown.update()
    assert re.search(r"work \[\d\d:\d\d\]", bars.terminal.getvalue())
