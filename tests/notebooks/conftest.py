"""What the tests of solutions share: a notebook's checks with its solutions, and a process left as it was."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import nbformat

FOLDER = Path(__file__).parents[2] / "notebooks"


def _solved(stem: str) -> dict[str, Any]:
    """The names of a notebook's first cell, of its solutions and of its checks, which have run."""
    notebook = nbformat.read(FOLDER / f"{stem}.ipynb", as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    names: dict[str, Any] = {}
    exec(code[0], names)
    exec((FOLDER / "solutions" / f"{stem}.py").read_text(), names)
    for source in code:
        if re.search(r"^def check_", source, re.MULTILINE):
            exec(source, names)
    return names


@pytest.fixture
def solved() -> Callable[[str], dict[str, Any]]:
    """Gives the names of a notebook by its stem: those of its first cell, of its solutions and of its checks."""
    return _solved


@pytest.fixture(autouse=True)
def process_left_as_it_was() -> Any:
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
