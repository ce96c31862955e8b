"""The directory of a run: its files, its lock, and which files may be deleted."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from errno import ENOLCK, ENOSYS, EOPNOTSUPP
from pathlib import Path

from flowvae.core.errors import DamagedError, FlowvaeError
from flowvae.core.files import temporary_name
from flowvae.evaluation import FIGURES, figures_of_measures

__all__ = [
    "CHECKPOINT",
    "ERROR",
    "HISTORY",
    "LOCK",
    "METRICS",
    "SETTINGS",
    "check_files",
    "copy_run",
    "delete_leftovers",
    "delete_run",
    "figure_file",
    "foreign",
    "holds_run",
    "is_empty",
    "locked",
    "make_directory",
    "writing",
]

SETTINGS, CHECKPOINT, HISTORY, METRICS = "experiment.yaml", "checkpoint.safetensors", "history.csv", "metrics.json"
STAGES = ("first-stage", "prior-fit")
ERROR = "error.txt"  # of a cell of a grid
LOCK = ".lock"
FILES = (ERROR, "samples.png", METRICS, HISTORY, CHECKPOINT, SETTINGS, LOCK)
# The order of deletion: after each step, the rest is a run that can be resumed, or nothing.
_ORDER = (METRICS, HISTORY, CHECKPOINT, *STAGES, SETTINGS)
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]+\.tmp")


@contextmanager
def locked(file: Path, wait: float = -1) -> Iterator[None]:
    """Hold a file lock; the operating system releases it when the process ends, even if it is killed.

    Args:
        file: the lock file, which is not deleted.
        wait: seconds to wait for another process or thread that holds it; negative: no limit.

    Raises:
        TimeoutError: if it is still held after this time.
        OSError: if it cannot be written.
    """
    from filelock import FileLock

    # one lock per process, so that a holder can acquire it again
    lock = FileLock(file.parent.resolve() / file.name, is_singleton=True, fallback_to_soft=False)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.acquire(timeout=wait))
        except OSError as error:
            # a marker file instead of a lock would outlive a killed process and block the directory
            if isinstance(error, TimeoutError) or error.errno not in (ENOSYS, ENOLCK, EOPNOTSUPP):
                raise
            warnings.warn(
                f"{file.parent}: has no file locks ({error.strerror}); only one process at a time may write to it.",
                stacklevel=2,
            )
        yield


@contextmanager
def writing(directory: Path, wait: float = 1.0) -> Iterator[None]:
    """Hold the write lock of a run's directory, which is created if it does not exist. Reading needs no lock.

    Args:
        directory: directory of the run.
        wait: seconds to wait for another writer.

    Raises:
        FlowvaeError: if another process still writes to it after this time, or it cannot be written.
    """
    make_directory(directory)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(directory / LOCK, wait))
        except TimeoutError:
            raise FlowvaeError(
                f"{directory}: another process is writing to it; wait until it has ended, or name another directory."
            ) from None
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise FlowvaeError(f"{directory}: cannot be written ({reason}); name another place.") from None
        yield


def make_directory(directory: Path) -> None:
    """Create a directory and its parents, if they do not exist.

    Raises:
        FlowvaeError: if it cannot be created.
    """
    if directory.is_symlink() and not directory.exists():
        raise FlowvaeError(f"{directory}: is a link to {directory.readlink()}, which does not exist; create it first.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise FlowvaeError(f"{directory}: is a file; name a directory.") from None
    except OSError as error:
        raise FlowvaeError(f"{directory}: cannot be written ({error.strerror}); name another place.") from None


def figure_file(directory: Path, title: str) -> Path:
    """Return the path of a figure of a run.

    Raises:
        ValueError: for a title that no measure has declared, whose file would not be recognized as part of the run.
    """
    if title not in _titles():
        raise ValueError(f"figure {title!r}: name it where the measure is registered, measure(…, figures=…)")
    return directory / "figures" / f"{title}.png"


def foreign(directory: Path) -> Iterator[Path]:
    """Yield the files and folders in a run's directory that no run writes."""
    for path in sorted(directory.iterdir()):
        if path.is_symlink() or not path.is_dir():
            if path.name not in FILES and not _is_temporary(path):
                yield path
        elif path.name in STAGES or _is_temporary(path):
            yield from foreign(path)
        elif path.name == "figures":
            own = {f"{title}.png" for title in _titles()}
            yield from (file for file in path.iterdir() if file.name not in own and not _is_temporary(file))
        else:
            yield path


def check_files(directory: Path) -> None:
    """Check that the files of a run are regular files: links and directories could not be replaced.

    Raises:
        DamagedError: if one is not.
    """
    for file in (directory / name for name in (SETTINGS, CHECKPOINT, HISTORY, METRICS)):
        if file.is_symlink() or (file.exists() and not file.is_file()):
            raise DamagedError(f"{file}: is not a regular file; put the file itself in its place.")


def is_empty(directory: Path) -> bool:
    """Whether a directory is empty except for files that a killed process or a failed cell has left."""
    return all(path.name in (LOCK, ERROR) or _is_temporary(path) for path in directory.iterdir()) and not any(
        foreign(directory)
    )


def holds_run(directory: Path) -> bool:
    """Whether a directory contains a run, finished or not, and nothing else."""
    return any((directory / name).is_file() for name in (SETTINGS, CHECKPOINT)) and not any(foreign(directory))


def delete_run(directory: Path) -> None:
    """Delete the files of a run one by one, its settings last; directory and lock are kept.

    After an interruption, the remaining files can be resumed as a run or deleted again.
    """

    def rank(path: Path) -> int:
        return _ORDER.index(path.name) if path.name in _ORDER else -1

    for path in sorted(directory.iterdir(), key=rank):
        if path.name != LOCK:
            _delete(path)


def delete_leftovers(directory: Path) -> None:
    """Delete temporary files that a killed process has left in a run's directory; the lock must be held."""
    for path in list(directory.iterdir()):
        if _is_temporary(path) and not path.name.startswith(".samples.png."):  # which is written without the lock
            _delete(path)


def copy_run(source: Path, target: Path) -> None:
    """Copy the files of a run into a new directory, which gets its name when it is complete."""
    copying = target.with_name(temporary_name(target.name))
    try:
        _copy(source, copying)
        copying.rename(target)
    finally:
        if copying.exists():
            _delete(copying)


def _delete(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    delete_run(path)
    (path / LOCK).unlink(missing_ok=True)
    path.rmdir()


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    others = {*foreign(source), source / LOCK}
    for path in sorted(source.iterdir()):
        if path not in others and not _is_temporary(path):
            if path.is_dir():
                _copy(path, target / path.name)
            else:
                shutil.copyfile(path, target / path.name)


def _is_temporary(path: Path) -> bool:
    named = _TEMPORARY.fullmatch(path.name)
    own = {*FILES, *STAGES, *(f"{title}.png" for title in _titles())}
    return named is not None and named[1] in own


def _titles() -> tuple[str, ...]:
    """Return the titles of all figures that a run may have."""
    return (*FIGURES, *figures_of_measures())
