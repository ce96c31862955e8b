"""Runs that are killed at any point, and directories that several processes write to at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import HANGS

EVERY = "FLOWVAE_EVERY_KILL" in os.environ  # some minutes; otherwise a few points of each
SCENARIOS = [
    *("start", "overwrite", "overwrite, then resume", "overwrite three stages", "resume", "resume without checkpoint"),
    *("extend", "extend a second stage"),
    *("three stages", "fit-prior", "evaluate", "compare", "compare, damaged", "compare again"),
]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `killed.py` says; a process of its own, because a process with threads is not to be forked."""
    script = Path(__file__).with_name("killed.py")
    command = [sys.executable, str(script), str(tmp_path_factory.mktemp("killed")), *([] if EVERY else ["2"])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # a fork cannot use a GPU
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=2 * HANGS)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    assert list(found["killed"]) == SCENARIOS
    return found


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_a_kill_leaves_goes_on_to_the_same_end(told: dict[str, Any], name: str) -> None:
    found = told["killed"][name]
    assert found["points"] >= 12
    assert found["tried"] == (found["points"] if EVERY else 2)
    assert found["failures"] == []


@pytest.mark.parametrize("how", ["train", "overwrite"])
def test_one_of_three_trainings_in_a_directory_runs_and_the_others_are_told(told: dict[str, Any], how: str) -> None:
    *said, after, alone = told["contests"][how]
    assert "ended" in said
    assert after == alone
    for text in said:
        if text == "ended":
            continue
        assert text.startswith("FlowvaeError")
        assert "another process" in text or "exists" in text


def test_parallel_measurements_lose_none(told: dict[str, Any]) -> None:
    found = told["contests"]["evaluate"]
    expected = ["activity", "iwae", "mmd", "surgery"]
    assert found == [sorted([*expected, "likelihood"]), *[expected] * 4]


def test_two_grids_in_a_directory_give_the_table_of_one(told: dict[str, Any]) -> None:
    one, other, alone = told["contests"]["grid"]
    assert one == other == alone
