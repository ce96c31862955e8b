"""A grid gives the same table however it is cut into processes, interrupted or resumed."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from helpers import HANGS

from flowvae import MAF, Experiment, FlowvaeError, LatentVariablePrior, Mixture, Training
from flowvae.comparisons.engine.grid import Grid, _run_all, cell_name, run_grid
from flowvae.core.errors import UnfinishedRunWarning
from flowvae.data import Arrays
from flowvae.evaluation import MEASURES, EvaluationContext, MeasureResult
from flowvae.experiments.run import load
from flowvae.experiments.stages import SecondStage
from flowvae.experiments.train import fit_prior
from flowvae.inference import save_checkpoint
from flowvae.models import BernoulliLikelihood
from flowvae.networks import MLP

BASE = Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,)), inference=Training(epochs=3, device="cpu"))
ARMS = {"normal": BASE, "mixture": replace(BASE, prior=Mixture(3)), "maf": replace(BASE, prior=MAF(1, (8,)))}
TIMES = ["seconds", "seconds_per_epoch"]


def small(directory: Path, **how: object) -> pd.DataFrame:
    grid = run_grid(ARMS, range(2), directory, draws=20, progress=False, **how)  # type: ignore[arg-type]
    assert grid.failed.empty
    return grid.table.drop(columns=TIMES)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return small(tmp_path_factory.mktemp("undisturbed"))


def test_a_cell_has_the_name_of_its_settings() -> None:
    assert cell_name(BASE) == cell_name(Experiment(**BASE.__dict__))
    others = [replace(BASE, seed=1), replace(BASE, inference=replace(BASE.inference, epochs=4)), ARMS["maf"]]
    assert len({cell_name(experiment) for experiment in [BASE, *others]}) == 4


def test_arms_and_seeds_are_all_there_and_run_once(tmp_path: Path, undisturbed: pd.DataFrame) -> None:
    first = small(tmp_path)
    assert list(first["arm"]) == ["normal", "mixture", "maf"] * 2
    assert list(first["seed"]) == [0, 0, 0, 1, 1, 1]
    assert first["nll"].nunique() == 6
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    pd.testing.assert_frame_equal(small(tmp_path), first)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == before
    pd.testing.assert_frame_equal(first, undisturbed)


def test_two_processes_give_the_same_table(tmp_path: Path, undisturbed: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(small(tmp_path, jobs=2), undisturbed)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_dask_cluster_gives_the_same_table(
    threads: int, tmp_path: Path, undisturbed: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is an extra: pip install -e '.[cluster]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dask's own
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=threads, protocol="tcp", dashboard_address=None
        ) as cluster:
            assert cluster.scheduler_address.startswith("tcp://")
            monkeypatch.chdir(tmp_path)  # where the workers are not
            table = small(Path("cells"), scheduler=cluster.scheduler_address)
    assert len([*(tmp_path / "cells").glob("*/metrics.json")]) == len(table)
    pd.testing.assert_frame_equal(table, undisturbed)


def test_a_lost_worker_costs_only_the_cell_that_kills_it(tmp_path: Path) -> None:
    def cell(name: str) -> dict[str, object]:
        mark = tmp_path / name
        if name == "always" or (name == "once" and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"cell": name, "nll": float(len(name))}

    told = []
    names = ["a", "once", "bb", "ccc", "always", "dddd"]
    healthy = {name: joblib.delayed(cell)(name) for name in names if name != "always"}
    with pytest.warns(UserWarning, match="a worker was lost") as lost:
        rows = _run_all(healthy, 2, lambda: told.append(1))
    assert len(lost) == 1  # once
    assert {row["cell"]: row["nll"] for row in rows} == {name: float(len(name)) for name in healthy}
    with pytest.warns(UserWarning, match="a worker was lost"):
        rows = _run_all({name: joblib.delayed(cell)(name) for name in names}, 2, lambda: told.append(1))
    (broken,) = [row for row in rows if "error" in row]
    assert broken["cell"] == "always"
    assert "Terminated" in broken["error"]
    assert len(told) == len(healthy) + len(names) == len(rows) + len(healthy)


def test_a_grid_that_was_killed_ends_as_if_it_had_not_been(tmp_path: Path, undisturbed: pd.DataFrame) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]; from pathlib import Path\n"
        "from test_grid import small; small(Path(sys.argv[1]))"
    )
    here = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(here), str(here.parents[1])], start_new_session=True
    )
    started = time.monotonic()
    while len(list(tmp_path.glob("*/metrics.json"))) < 2:  # some cells are done, and one is running
        assert process.poll() is None
        assert time.monotonic() - started < HANGS
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(tmp_path.glob("*/metrics.json"))) < 6
    pd.testing.assert_frame_equal(small(tmp_path), undisturbed)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def without_last_row(cell: Path) -> None:
    file = cell / "history.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def directory_for_history(cell: Path) -> None:
    (cell / "history.csv").unlink()
    (cell / "history.csv").mkdir()


DAMAGE = {
    "checkpoint cut": lambda cell: cut(cell / "checkpoint.safetensors"),
    "no checkpoint": lambda cell: (cell / "checkpoint.safetensors").unlink(),
    "no settings": lambda cell: (cell / "experiment.yaml").unlink(),
    "settings cut": lambda cell: (cell / "experiment.yaml").write_text("latent: ["),
    "no measures": lambda cell: (cell / "metrics.json").write_text("[]"),
    "measures edited": lambda cell: (cell / "metrics.json").write_text(
        (cell / "metrics.json").read_text().replace("1", "2")
    ),
    "a directory for the history": directory_for_history,
    "history in binary": lambda cell: (cell / "history.csv").write_bytes(b"\xff\xfe\x00" * 9),
    "history without its last row": without_last_row,
    "a file": lambda cell: (shutil.rmtree(cell), cell.write_text("not a cell")),
    "a dangling link": lambda cell: (shutil.rmtree(cell), cell.symlink_to(cell.with_name("nowhere"))),
    "foreign files": lambda cell: (shutil.rmtree(cell), cell.mkdir(), (cell / "thesis.tex").write_text("mine")),
}


@pytest.fixture(scope="module")
def one_cell(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    place = tmp_path_factory.mktemp("one")
    return place, run_grid({"normal": BASE}, range(1), place, draws=20, progress=False).table


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_cell_is_set_aside_and_run_again(
    tmp_path: Path, one_cell: tuple[Path, pd.DataFrame], kind: str
) -> None:
    place, expected = one_cell
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    cell = tmp_path / cell_name(BASE)
    DAMAGE[kind](cell)
    kept = [cell.lstat().st_ino, *sorted(file.lstat().st_ino for file in cell.rglob("*"))]
    for number in (1, 2):  # and what was set aside before stays
        with pytest.warns(UserWarning, match=f"damaged-{number}"):
            grid = run_grid({"normal": BASE}, range(1), tmp_path, draws=20, progress=False)
        pd.testing.assert_frame_equal(grid.table.drop(columns=TIMES), expected.drop(columns=TIMES))
        if number == 1:
            aside = tmp_path / f"{cell.name}.damaged-1"
            assert [aside.lstat().st_ino, *sorted(file.lstat().st_ino for file in aside.rglob("*"))] == kept
            cut(cell / "checkpoint.safetensors")


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("name", ["experiment.yaml", "checkpoint.safetensors", "history.csv"])
def test_damage_in_an_earlier_stage_is_damage(tmp_path: Path, name: str, finished: bool) -> None:
    two = {"two": replace(BASE, second_stage=SecondStage(Mixture(2), replace(BASE.inference, epochs=1)))}
    expected = run_grid(two, range(1), tmp_path, draws=20, progress=False).table
    cell = tmp_path / cell_name(two["two"])
    file = cell / "first-stage" / name
    if not finished:
        (cell / "history.csv").unlink()
    if name == "history.csv":
        without_last_row(cell / "first-stage")
    else:
        file.unlink()
    if finished and name == "experiment.yaml":  # which a finished cell does not need
        table = run_grid(two, range(1), tmp_path, draws=20, progress=False).table
    else:
        with pytest.warns(UserWarning, match="damaged-1"):
            table = run_grid(two, range(1), tmp_path, draws=20, progress=False).table
    pd.testing.assert_frame_equal(table.drop(columns=TIMES), expected.drop(columns=TIMES))


@pytest.mark.parametrize("name", ["history.csv", "metrics.json"])
def test_a_cell_that_lost_a_file_that_can_be_made_again_goes_on(
    tmp_path: Path, one_cell: tuple[Path, pd.DataFrame], name: str
) -> None:
    place, expected = one_cell
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    cell = tmp_path / cell_name(BASE)
    (cell / name).rename(cell / "renamed")
    (cell / "error.txt").write_text("a measure broke")
    table = run_grid({"normal": BASE}, range(1), tmp_path, draws=20, progress=False).table
    pd.testing.assert_frame_equal(table, expected)  # and it is not trained again
    assert (cell / "renamed").exists()
    assert not (cell / "error.txt").exists()
    edited = replace(BASE, inference=replace(BASE.inference, device="auto"))
    edited.to_yaml(cell / "experiment.yaml")  # which may be changed by hand
    table = run_grid({"normal": BASE}, range(1), tmp_path, draws=20, progress=False).table
    pd.testing.assert_frame_equal(table, expected)


def test_a_cell_that_cannot_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    grid = run_grid({"normal": BASE}, range(1), tmp_path, draws=20, progress=False)
    assert "No space left" in grid.failed["error"][0]
    monkeypatch.undo()
    assert run_grid({"normal": BASE}, range(1), tmp_path, draws=20, progress=False).failed.empty


def test_a_cell_that_breaks_stops_no_other(tmp_path: Path) -> None:
    hot = replace(BASE, inference=replace(BASE.inference, learning_rate=1e18, clip=None))
    for _ in range(2):  # and it is tried again, not taken for done
        grid = run_grid({"hot": hot, "normal": BASE}, range(2), tmp_path, draws=20, progress=False)
        assert list(grid.table["arm"]) == ["normal"] * 2
        assert list(grid.failed["arm"]) == ["hot"] * 2
        assert grid.failed["error"].str.contains("TrainingStopped").all()
        trace = tmp_path / cell_name(hot) / "error.txt"
        assert "Traceback" in trace.read_text()


def test_mistakes_are_named_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FlowvaeError, match="file"):
        run_grid(ARMS, range(1), tmp_path / "file")
    for arms, seeds in (({}, range(1)), (ARMS, range(0))):
        with pytest.raises(FlowvaeError, match="arms"):
            run_grid(arms, seeds, tmp_path / "none")
    with pytest.raises(FlowvaeError, match="jobs = 0"):
        run_grid(ARMS, range(1), tmp_path / "a", jobs=0)
    with pytest.raises(FlowvaeError, match="'normal' and 'same': are the same experiment"):
        run_grid({**ARMS, "same": BASE}, range(1), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_file_that_is_missing_for_once_costs_no_run(tmp_path: Path, undisturbed: pd.DataFrame) -> None:
    file = tmp_path / "mine.npz"
    np.savez(file, train=np.random.default_rng(0).integers(0, 2, (60, 5)))
    own = {"own": replace(BASE, data=Arrays(file, BernoulliLikelihood()))}
    cells = tmp_path / "cells"
    before = run_grid(own, range(2), cells, draws=20, progress=False).table
    weights = {path: path.read_bytes() for path in cells.rglob("checkpoint.safetensors")}
    (cells / cell_name(replace(own["own"], seed=1)) / "history.csv").unlink()  # as if it had been interrupted
    file.rename(tmp_path / "elsewhere.npz")
    grid = run_grid(own, range(2), cells, draws=20, progress=False)
    assert list(grid.failed["error"].str.contains("no such file")) == [True, True]
    assert {path: path.read_bytes() for path in cells.rglob("checkpoint.safetensors")} == weights
    np.savez(file, train=np.random.default_rng(1).integers(0, 2, (60, 5)))
    grid = run_grid(own, range(2), cells, draws=20, progress=False)  # nor does a file of other data give its figures
    assert list(grid.failed["error"].str.contains("data are now")) == [True, True]
    assert {path: path.read_bytes() for path in cells.rglob("checkpoint.safetensors")} == weights
    (tmp_path / "elsewhere.npz").replace(file)
    after = run_grid(own, range(2), cells, draws=20, progress=False).table
    pd.testing.assert_frame_equal(after.drop(columns=TIMES), before.drop(columns=TIMES))


def test_a_cell_that_was_measured_before_its_end_is_not_taken_for_done(
    tmp_path: Path, undisturbed: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Like a signal, nothing that a cell catches."""

    def stop(*_: object) -> None:
        raise Killed

    hasty = replace(BASE, inference=replace(BASE.inference, checkpoint_seconds=0.0))
    assert cell_name(hasty) != cell_name(BASE)
    directory = tmp_path / cell_name(hasty)
    saved = iter((None, stop))
    save = save_checkpoint

    def save_and_die(*how: object) -> None:
        save(*how)  # type: ignore[arg-type]
        (next(saved) or (lambda: None))()

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["flowvae.inference.training_state"], "save_checkpoint", save_and_die)
        with pytest.raises(Killed):
            hasty.run(directory, draws=20, progress=False)
    with pytest.warns(UnfinishedRunWarning, match="has not ended"):
        load(directory).evaluate(draws=20, progress=False)
    with pytest.raises(FlowvaeError, match="is not finished"):
        fit_prior(directory, SecondStage(Mixture(2)), tmp_path / "second")
    table = run_grid({"normal": hasty}, range(2), tmp_path, draws=20, progress=False).table
    same = undisturbed[undisturbed["arm"] == "normal"].reset_index(drop=True)
    pd.testing.assert_frame_equal(table.drop(columns=[*TIMES, "cell"]), same.drop(columns="cell"), check_like=True)


def test_an_arm_without_a_density_has_no_value_there_and_an_error_fails_its_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = replace(BASE, prior=LatentVariablePrior(latent=2, decoder=MLP((8,)), encoder=MLP((8,))))
    arms = {"normal": BASE, "two-level": two}

    def run() -> Grid:
        return run_grid(arms, [0], tmp_path, draws=5, measures=("surgery",), progress=False)

    for grid in (run(), run()):
        assert grid.failed.empty
        found = grid.table.set_index("arm")["marginal_kl_train"]
        assert found["normal"] > 0
        assert np.isnan(found["two-level"])

    def broken(context: EvaluationContext) -> MeasureResult:
        raise FlowvaeError("a mistake")

    monkeypatch.setitem(MEASURES, "mmd", broken)
    grid = run_grid(arms, [0], tmp_path, draws=5, measures=("surgery", "mmd"), progress=False)
    assert grid.table.empty
    assert grid.failed["error"].str.contains("a mistake").all()
