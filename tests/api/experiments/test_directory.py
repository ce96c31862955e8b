"""Files and directories: what is written safely, what is deleted, and what is said where the disk refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flowvae import Arrays, Experiment, FlowvaeError, Training, load
from flowvae.cli.command import main
from flowvae.comparisons import QUESTIONS, answer
from flowvae.comparisons.engine.grid import run_grid
from flowvae.core.files import as_path, atomic_write
from flowvae.evaluation import MEASURES
from flowvae.experiments.directory import delete_run, figure_file, foreign, is_empty, writing
from flowvae.experiments.run import Run
from flowvae.experiments.stages import SecondStage
from flowvae.experiments.train import fit_prior
from flowvae.models import BernoulliLikelihood
from flowvae.networks import MLP

QUICK = Training(epochs=1, device="cpu")
HOW = {"draws": 5, "figures": False, "progress": False}
SETTINGS = Experiment(latent=2, encoder=MLP((4,)), decoder=MLP((4,)), inference=QUICK)


def write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("mine") / "mine.npz"
    np.savez(file, train=np.random.default_rng(0).integers(0, 2, (60, 5)))
    return file


@pytest.fixture(scope="module")
def trained(mine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own(mine).run(tmp_path_factory.mktemp("trained") / "run", **HOW).directory  # type: ignore[arg-type]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def own(file: Path) -> Experiment:
    return replace(SETTINGS, data=Arrays(file, BernoulliLikelihood()))


def never(*_: object, **__: object) -> None:
    raise AssertionError("the long work began")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_a_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "file"
    file.touch(mode)
    file.chmod(mode)
    with atomic_write(file) as temporary:
        assert temporary.stat().st_mode & 0o077 == 0  # private while it is written
        temporary.write_text("new")
    assert file.stat().st_mode & 0o777 == mode
    assert file.read_text() == "new"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "file", "new")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_temporary_names_cannot_be_foreseen(tmp_path: Path) -> None:
    seen = set()
    for _ in range(3):
        with atomic_write(tmp_path / "file") as temporary:
            seen.add(temporary.name)
            assert temporary.parent == tmp_path
    assert len(seen) == 3
    victim = tmp_path / "victim"
    victim.write_text("victim")
    with pytest.MonkeyPatch.context() as patch:  # and one that is foreseen is not followed
        patch.setattr("flowvae.core.files.secrets.token_hex", lambda _: "00")
        (tmp_path / ".file.00.tmp").symlink_to(victim)
        with pytest.raises(FileExistsError):
            write(tmp_path / "file", "evil")
    assert victim.read_text() == "victim"
    assert (tmp_path / ".file.00.tmp").is_symlink()


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "directory"])
def test_only_regular_files_are_replaced(tmp_path: Path, kind: str) -> None:
    place, target = tmp_path / "place", tmp_path / "target"
    if kind == "link":
        target.write_text("old")
    if "link" in kind:
        place.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    before = place.lstat().st_mode
    with pytest.raises(OSError, match="link" if "link" in kind else "regular") as info:
        write(place, "new")
    assert info.value.filename == str(place)
    assert place.lstat().st_mode == before
    assert target.exists() == (kind == "link")
    assert kind != "link" or target.read_text() == "old"


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    write(tmp_path / ("é" * 127), "new")
    assert (tmp_path / ("é" * 127)).read_text() == "new"


def test_paths_are_those_that_users_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_path("~/run") == as_path(Path("~/run")) == tmp_path / "run"
    assert as_path("~") == tmp_path
    assert as_path("a~/b") == Path("a~/b")


BAD_PATHS = {
    "/dev/null/x": "Not a directory",
    "~nobody-of-this-name/x": "home",
    "a" * 300: "too long",
    os.fsdecode(b"caf\xe9"): "UTF-8",
    "a\0b": "NUL",
}


@pytest.mark.parametrize("name", BAD_PATHS, ids=ascii)
def test_what_cannot_be_a_directory_is_refused_before_any_work(
    name: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    monkeypatch.setattr("flowvae.experiments.train.fit", never)
    commands = [
        lambda: SETTINGS.run(name),
        lambda: load(name),
        lambda: fit_prior(name, SecondStage(SETTINGS.prior, QUICK, fine_tune=True), "out"),
        lambda: fit_prior("run", SecondStage(SETTINGS.prior, QUICK, fine_tune=True), name),
        lambda: answer(QUESTIONS["capacity"], "digits", "seconds", name),
        lambda: run_grid({"a": SETTINGS}, range(1), Path(name)),
    ]
    for command in commands:
        with pytest.raises(FlowvaeError, match=BAD_PATHS[name]) as info:
            command()
        assert "\n" not in str(info.value)
        assert len(str(info.value)) < 400
    words = ["train", "--out", name], ["evaluate", name], ["compare", "capacity", "--preset", "seconds", "--out", name]
    for command_line in words:
        assert main(command_line) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert said[0].startswith("flowvae: ")
    assert [path.name for path in run.parent.iterdir()] == ["run"]


@pytest.mark.parametrize("kind", ["file", "dangling link", "below a file", "in /proc"])
def test_places_that_cannot_be_written_are_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flowvae.experiments.train.fit", never)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    places = {"file": "file", "dangling link": "link", "below a file": "file/run", "in /proc": "/proc/nothing/run"}
    out = tmp_path / places[kind]
    for how in ([], ["--overwrite"], ["--resume"]):
        assert main(["train", "--latent", "2", "--out", str(out), *how]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert str(out) in said[0]
    assert (tmp_path / "file").read_text() == "kept"
    assert not (tmp_path / "nowhere").exists()


def test_a_working_directory_that_was_deleted_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in (["train", "--out", "x"], ["evaluate", "x"], ["compare", "capacity", "--out", "x"]):
        assert main(words) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert "working directory" in said[0]
    assert load(run).measured
    experiment = Experiment.from_yaml(run / "experiment.yaml")
    assert experiment.run(run, overwrite=True, **HOW).measured  # type: ignore[arg-type]


@pytest.mark.parametrize("written", range(1, 6))  # settings, checkpoint, history, measures; a figure
def test_a_full_disk_is_one_line_and_what_was_written_stays(
    written: int, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    fsync, left = os.fsync, iter(range(written - 1, -1, -1))

    def full(file: int) -> None:
        if next(left) == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    def draw(*how: object) -> None:
        write(out / "figures.png", "")

    monkeypatch.setattr("flowvae.experiments.train.draw_figures", draw)
    own(mine).to_yaml(tmp_path / "e.yaml")
    words = ["train", "--config", str(tmp_path / "e.yaml"), "--out", str(out), "--draws", "5"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main(words) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("flowvae: ")]
    names = ["experiment.yaml", "checkpoint.safetensors", "history.csv", "metrics.json", "figures.png"]
    assert f"{names[written - 1]}'" in said
    assert "No space left" in said
    assert {file.name for file in out.iterdir()} == {".lock", *names[: written - 1]}
    assert main([*words, *(["--resume"] if written > 1 else [])]) == 0


def test_a_run_on_a_disk_that_cannot_be_written_can_be_read(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / ".lock").unlink()
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    opened = os.open

    def read_only(path: str | Path, flags: int, *how: int, **more: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *how, **more)

    monkeypatch.setattr(os, "open", read_only)
    assert set(load(run).measured) == {"likelihood"}
    assert len(load(run).history) == 1
    monkeypatch.setitem(MEASURES, "activity", never)
    assert main(["evaluate", str(run), "--measures", "activity"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert str(run) in said
    assert "Read-only file system" in said
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before


FOREIGN = ["thesis.tex", "data.npz", "figures/mine.png", "first-stage/notes", "notes/experiment.yaml", ".git/HEAD"]


@pytest.mark.parametrize("name", FOREIGN)
def test_overwrite_deletes_only_what_a_run_writes(name: str, run: Path) -> None:
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text("mine")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    experiment = Experiment.from_yaml(run / "experiment.yaml")
    with pytest.raises(FlowvaeError, match=str((run / name).relative_to(run).parts[0])):
        experiment.run(run, overwrite=True, **HOW)  # type: ignore[arg-type]
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_overwrite_follows_no_link(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "first")
    (run / "first-stage").symlink_to(tmp_path / "first")
    experiment = Experiment.from_yaml(run / "experiment.yaml")
    with pytest.raises(FlowvaeError, match="first-stage"):
        experiment.run(run, overwrite=True, **HOW)  # type: ignore[arg-type]
    (run / "first-stage").unlink()
    (run / "metrics.json").rename(tmp_path / "metrics.json")
    (run / "metrics.json").symlink_to(tmp_path / "metrics.json")
    experiment.run(run, overwrite=True, **HOW)  # type: ignore[arg-type]
    assert (tmp_path / "metrics.json").is_file()
    assert not (run / "metrics.json").is_symlink()


def test_overwrite_deletes_no_directory_that_is_in_use(
    run: Path, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = Experiment.from_yaml(run / "experiment.yaml")
    shutil.copy(mine, run / "samples.png")  # NumPy does not look at names
    inside = own(run / "samples.png")
    with pytest.raises(FlowvaeError, match="in use"):
        inside.run(run, overwrite=True, **HOW)  # type: ignore[arg-type]
    for place, name in ((run, "."), (run, str(run)), (run / "figures", "..")):
        place.mkdir(exist_ok=True)
        monkeypatch.chdir(place)
        with pytest.raises(FlowvaeError, match="in use"):
            experiment.run(name, overwrite=True, **HOW)  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    assert load(run).measured
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "metrics.json").write_text("{}")  # another program's
    with pytest.raises(FlowvaeError, match="not a run"):
        experiment.run(tmp_path / "names", overwrite=True, **HOW)  # type: ignore[arg-type]


def test_a_comparison_deletes_only_its_own_files(tmp_path: Path) -> None:
    from flowvae.comparisons.engine.answer_files import delete_earlier

    place = tmp_path / "place"
    (place / "samples").mkdir(parents=True)
    kept = ["notes.csv", "thesis.png", "answer.txt", "samples/mine.png", "../secret.png"]
    for name in ["table.csv", "differences-nll.csv", "differences.png", "priors.png", "samples/a.png", *kept]:
        (place / name).touch()
    (place / "answer.json").write_text('{"figures": ["priors", "../secret"], "arms": {"a": {}}}')
    delete_earlier(place)
    left = {file.relative_to(place) for file in place.rglob("*") if file.is_file()}
    assert left == {Path(name) for name in kept[:-1]}
    assert (tmp_path / "secret.png").exists()


def test_every_figure_of_a_measure_has_a_name_that_a_run_may_delete(run: Path) -> None:
    with pytest.raises(ValueError, match="mine"):
        figure_file(run, "mine")
    assert main(["evaluate", str(run), "--measures", "activity", "--figures"]) == 0
    assert main(["sample", str(run)]) == 0
    assert not list(foreign(run))


def test_measures_of_other_weights_are_not_stored(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = load(run)
    other = replace(opened.experiment, seed=1).run(run, overwrite=True, **HOW)  # type: ignore[arg-type]
    monkeypatch.setitem(MEASURES, "activity", never)
    with pytest.raises(FlowvaeError, match="other weights"):
        opened.evaluate(measures=["activity"])
    assert isinstance(other, Run)
    assert load(run).metrics == other.metrics


def test_a_deletion_that_is_interrupted_leaves_a_run_or_nothing(run: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        """Like a signal."""

    shutil.copytree(run, run / "first-stage")
    for name in ("figures/latent.png", "samples.png", "error.txt", ".metrics.json.0123456789abcdef.tmp"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).touch()
    files = [path for path in run.rglob("*") if path.is_file()]
    for allowed in range(len(files)):
        place = tmp_path / f"copy{allowed}"
        shutil.copytree(run, place)
        left, unlink = iter(range(allowed, -1, -1)), Path.unlink

        def killed(path: Path, missing_ok: bool = False) -> None:
            if next(left) == 0:  # noqa: B023
                raise Killed
            unlink(path, missing_ok)  # noqa: B023

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "unlink", killed)
            with contextlib.suppress(Killed):
                delete_run(place)
        assert is_empty(place) or (place / "experiment.yaml").is_file()
        assert not (place / "metrics.json").is_file() or (place / "history.csv").is_file()
        assert not (place / "history.csv").is_file() or (place / "checkpoint.safetensors").is_file()
    delete_run(run)
    assert [path.name for path in run.iterdir()] == [".lock"]


@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": True}], ids=str)
def test_a_directory_that_another_writes_to_is_left_alone(run: Path, how: dict[str, bool]) -> None:
    experiment = Experiment.from_yaml(run / "experiment.yaml")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    held, done = threading.Event(), threading.Event()

    def write_long() -> None:
        with writing(run):
            held.set()
            done.wait(60)

    thread = threading.Thread(target=write_long)
    thread.start()
    try:
        assert held.wait(60)
        with pytest.raises(FlowvaeError, match=f"{run}: another process"):
            experiment.run(run, **how, **HOW)  # type: ignore[arg-type]
        assert load(run).measured  # reading takes no lock
        assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    finally:
        done.set()
        thread.join()
    assert experiment.run(run, **how, **HOW).measured  # type: ignore[arg-type]
