"""Bars of long work: where they appear, that they count all of it, and that they change nothing."""

from __future__ import annotations

import io
import json
import re
import subprocess
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

from flowvae import Experiment, Training, load
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
        [("codes", 2), ("decoded codes", 2)],
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


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(progress, "perf_counter", lambda: self.now)


def test_a_log_file_has_a_line_a_minute_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = Clock(monkeypatch), io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    lines = []
    with bar("training", "epoch", 100, initial=40, leave=True) as work:
        for number in range(40, 100):
            clock.now += 25.0
            work.set_postfix_str(f"ELBO {number}", refresh=False)
            work.update()
            lines.append(log.getvalue().count("\n"))
    said = log.getvalue().splitlines()
    assert said[0] == "training: epoch 43 of 100, about 24 min left (ELBO 42)"  # 57 epochs of 25 s
    assert said[-1] == "training: epoch 100 of 100, about 0 s left (ELBO 99)"
    assert len(said) == 20  # every third epoch
    assert lines[:4] == [0, 0, 1, 1]


@pytest.mark.parametrize("total", [3, None])
def test_lines_of_work_that_is_iterated_over(total: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, log = Clock(monkeypatch), io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    for _ in bar("work", "unit", total, range(3)):
        clock.now += 200.0
    left = "unit 1 of 3, about 7 min left" if total else "3 min so far"
    assert log.getvalue().splitlines()[0] == f"work: {left}"
    assert log.getvalue().count("\n") == 3


@pytest.mark.parametrize("quiet", ["unwanted", "one unit", "another process", "terminal"])
def test_where_no_line_is_written(quiet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), Terminal() if quiet == "terminal" else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "parent_process", lambda: "grid" if quiet == "another process" else None)
    with bar("work", "unit", 1 if quiet == "one unit" else 2, progress=quiet != "unwanted") as work:
        for _ in range(2):
            clock.now += 100.0
            work.update()
    assert "work" not in stream.getvalue() or quiet == "terminal"
    assert "left" not in stream.getvalue()


def test_training_and_its_measure_write_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock, log = Clock(monkeypatch), io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    how = {"draws": 1000, "figures": False, "callbacks": [lambda _: setattr(clock, "now", clock.now + 90.0)]}
    settings = Training(epochs=3, device="cpu", compile="none")
    experiment = Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,)), data=Moons(), inference=settings)
    experiment.run(tmp_path / "run", **how)  # type: ignore[arg-type]
    assert re.search(r"training: epoch 2 of 3, .* left \(ELBO train -\d.*, valid -\d.* nats\)", log.getvalue())
    log.truncate(0)
    experiment.run(tmp_path / "quiet", progress=False, **how)  # type: ignore[arg-type]
    assert log.getvalue() == ""
    count = progress.Bar.update

    def slow(self: progress.Bar, n: float | None = 1) -> Any:
        clock.now += 90.0
        return count(self, n)

    monkeypatch.setattr(progress.Bar, "update", slow)
    load(tmp_path / "run").evaluate(draws=1000)
    assert re.search(r"1000 draws per data point: part \d+ of \d+, about .* left", log.getvalue())
    assert re.search(r"1000 draws per data point: takes about .* in all", log.getvalue())


NOTEBOOK = """
import json, time
from flowvae.core import progress
from flowvae.core.progress import bar
progress.DELAY = 0.0
def left(ending, leave):
    work = bar(ending, "unit", 10, leave=leave)
    try:
        with work:
            for number in range(10):
                work.update()
                if ending == "early" and number == 4:
                    work.finish()
                    break
                if ending == "error" and number == 4:
                    raise ValueError
    except ValueError:
        pass
    return work
def over(ending):
    work = bar(ending, "unit", 10, range(10))
    try:
        for number in work:
            if number == 4 and ending == "early":
                break
            if number == 4:
                raise ValueError
    except ValueError:
        pass
    work.close()
    return work
"""


def test_a_notebook_keeps_no_text_of_a_bar_that_has_ended() -> None:
    """Widgets are made by ipywidgets without a kernel; a closed one has no communication and is not shown."""
    widgets = pytest.importorskip("ipywidgets")
    code = f"""
import sys, tqdm.auto, tqdm.notebook
tqdm.auto.tqdm = tqdm.notebook.tqdm
tqdm.notebook.display = lambda *_: None
{NOTEBOOK}
def style(work):
    closed = work.container.comm is None or getattr(work.container, "visible", True) is False
    return "closed" if closed else work.container.children[1].bar_style
kept = {{ending: style(left(ending, True)) for ending in ("whole", "early", "error")}}
gone = {{ending: style(left(ending, False)) for ending in ("whole", "early", "error")}}
iterated = {{ending: style(over(ending)) for ending in ("early", "error")}}
print(json.dumps([kept, gone, iterated]))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert widgets
    assert done.returncode == 0, done.stderr
    kept, gone, iterated = json.loads(done.stdout.splitlines()[-1])
    assert kept == {"whole": "success", "early": "success", "error": "danger"}
    assert set(gone.values()) == set(iterated.values()) == {"closed"}
