"""Every notebook runs from a fresh kernel, and is committed without outputs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from website import execute
from website.execute import NotebookError, digest, executed, is_current

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nbformat

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 1_000_000  # bytes of a notebook with its outputs


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_a_fresh_kernel(path: Path) -> None:
    """In an empty directory, which it leaves empty. The site shows the outputs of this run."""
    out = executed(path)
    notebook = nbformat.read(out, as_version=4)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source)
    assert out.stat().st_size < LARGEST


def small(path: Path, source: str) -> Path:
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), path)
    return path


@pytest.mark.filterwarnings("ignore")
def test_it_runs_once_for_each_state_of_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Path] = []
    once = execute._run
    monkeypatch.setattr(execute, "_run", lambda path: (runs.append(path), once(path))[1])
    folder = tmp_path / "out"
    path = small(tmp_path / "a.ipynb", "import os; print(6 * 7, os.environ['OMP_NUM_THREADS'])")
    assert not is_current(path, folder)
    out = executed(path, folder)
    assert is_current(path, folder)
    assert json.loads(out.read_text())["cells"][0]["outputs"][0]["text"] == ["42 1\n"]
    assert executed(path, folder) == out
    assert len(runs) == 1
    mark = digest(path)
    small(path, "print(43)")
    assert digest(path) != mark
    assert not is_current(path, folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("source", "reason"), [("1 / 0", "ZeroDivisionError"), ("open('left', 'w').close()", "left files.*: left")]
)
def test_a_notebook_that_fails_or_leaves_files_is_refused(source: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(NotebookError, match=f"(?s){reason}"):
        executed(small(tmp_path / "a.ipynb", source), tmp_path / "out")
    assert not (tmp_path / "out" / "a.ipynb").exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_opens_in_colab_and_installs_itself_there(path: Path) -> None:
    title, install = nbformat.read(path, as_version=4).cells[:2]
    assert title.source.startswith("# ")
    assert f"/blob/main/notebooks/{path.name})" in title.source
    assert "%pip install" in install.source
    assert install.metadata.tags == ["remove-cell"]
