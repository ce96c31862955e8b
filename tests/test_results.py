"""The page of results: its tables are those of the stored answers, and each has its figure."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", DOCS / "results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["results"] = module  # where its dataclass looks for annotations
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_answers(results: ModuleType) -> None:
    page = (DOCS / "results.md").read_text()
    assert set(re.findall(r"<!-- table (.*) -->", page)) == set(results.tables())
    assert results.filled(page) == page


def test_a_cell_is_the_mean_over_seeds_of_the_paired_runs(results: ModuleType) -> None:
    table = pd.read_csv(DOCS / "answers" / "holes-digits-hour" / "table.csv").pivot(
        index="seed", columns="arm", values="nll"
    )
    difference = (table["flow-two-stage"] - table["normal"]).agg(["mean", "sem"])
    cell = f"{difference['mean']:+.2f} ± {difference['sem']:.2f}".replace("-", "−")
    (row,) = [line for line in results.tables()["holes"].splitlines() if line.startswith("| MAF, afterwards ")]
    assert f"**{cell}**" in row


def test_each_table_has_a_figure(results: ModuleType) -> None:
    page = (DOCS / "results.md").read_text()
    for name in results.tables():
        assert f"](results/{name}.png)" in page
        assert (DOCS / "results" / f"{name}.png").stat().st_size > 1000
