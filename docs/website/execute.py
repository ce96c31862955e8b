"""Executes notebooks, once for each state of notebook and package; tests and the site share the results."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from filelock import FileLock

from website.paths import EXECUTED, ROOT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nbformat
    from nbclient import NotebookClient

ROOMS = ("api", "comparisons", "course", "data", "evaluation", "flows", "guides", "inference", "models", "networks")
LIBRARIES = ("matplotlib", "numpy", "pyro-ppl", "torch", "zuko")
PATIENCE = 1800  # seconds for one cell: far above its time on a busy machine
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


class NotebookError(Exception):
    """A notebook failed, or left files behind."""


def digest(path: Path) -> str:
    """Returns a checksum of the dependencies of a notebook's outputs: cells, package code, main libraries.

    Args:
        path: the notebook.

    """
    found = hashlib.sha256()
    for cell in nbformat.read(path, as_version=4).cells:
        found.update(f"{cell.cell_type}\0{cell.source}\0{sorted(cell.metadata.get('tags', []))}\0".encode())
    for source in sorted(source for room in ROOMS for source in (ROOT / room).rglob("*.py")):
        found.update(str(source.relative_to(ROOT)).encode() + b"\0" + source.read_bytes() + b"\0")
    for library in LIBRARIES:
        found.update(f"{library} {importlib.metadata.version(library)}\0".encode())
    found.update(sys.version.encode())
    return found.hexdigest()


def is_current(path: Path, folder: Path = EXECUTED) -> bool:
    """Whether the folder has an executed notebook with up-to-date outputs.

    Args:
        path: the notebook without outputs.
        folder: folder of executed notebooks.

    """
    out = folder / path.name
    return out.is_file() and nbformat.read(out, as_version=4).metadata.get("digest") == digest(path)


def executed(path: Path, folder: Path = EXECUTED) -> Path:
    """Runs a notebook with a new kernel in an empty directory, unless its outputs are up to date.

    Two processes never run the same notebook: the second waits and uses the result of the first.

    Args:
        path: the notebook without outputs.
        folder: folder of executed notebooks.

    Returns:
        The executed notebook, a file of the same name in `folder`.

    Raises:
        NotebookError: a cell failed, or the notebook wrote into its working directory.

    """
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / path.name
    with FileLock(folder / f".{path.stem}.lock"):
        if is_current(path, folder):
            return out
        mark, start = digest(path), time.monotonic()
        notebook = _run(path)
        notebook.metadata.update(digest=mark, seconds=round(time.monotonic() - start, 1))
        draft = folder / f".{path.name}.draft"
        nbformat.write(notebook, draft)
        draft.replace(out)
    return out


def _run(path: Path) -> Any:
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = NotebookClient(
            notebook, timeout=PATIENCE, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        try:
            client.execute(env=os.environ | QUIET, stderr=subprocess.DEVNULL)  # the kernel's log, not a cell's output
        except Exception as error:
            raise NotebookError(f"{path.name}: {error}") from error
        left = sorted(file.name for file in Path(folder).iterdir())
    if left:
        raise NotebookError(f"{path.name} left files in its working directory: {', '.join(left)}")
    return notebook
