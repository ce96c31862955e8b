"""Checkpoints: whole or not at all, and damage is noticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from flowvae.core.errors import FlowvaeError
from flowvae.core.files import atomic_write
from flowvae.inference import checkpoint, load_checkpoint, save_checkpoint


def written(path: Path) -> Path:
    tensors = {"a": torch.randn(50, 3), "b": torch.tensor(3.0), "c": torch.arange(4), "none": torch.zeros(0)}
    save_checkpoint(path, tensors, {"epoch": 3, "name": "é"})
    return path


def test_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors, facts = load_checkpoint(written(tmp_path / "c"))
    torch.manual_seed(0)
    assert torch.equal(tensors["a"], torch.randn(50, 3))
    assert tensors["b"].shape == ()
    assert facts["epoch"] == 3
    assert facts["name"] == "é"
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


def test_every_kind_of_damage_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "c")
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(FlowvaeError, match="truncated"):
            load_checkpoint(path)
    for position in range(8, len(whole), 7):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(FlowvaeError):
            load_checkpoint(path)
    path.write_bytes(whole)
    load_checkpoint(path)
    with pytest.raises(FlowvaeError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "other")


def test_a_file_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 1)
        written(tmp_path / "c")
    with pytest.raises(FlowvaeError, match=rf"format 1\b.*format {checkpoint.FORMAT}\b"):
        load_checkpoint(tmp_path / "c")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


KILLED_WHILE_SAVING = """
import sys, torch
from pathlib import Path
from flowvae.inference import save_checkpoint
path, number = Path(sys.argv[1]), 0
while True:
    number += 1
    save_checkpoint(path, {"value": torch.full((200_000,), float(number))}, {"number": number})
    print(number, flush=True)
"""


def test_a_kill_during_a_save_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c"
    for wait in (0.0, 0.003, 0.011):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED_WHILE_SAVING, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        tensors, facts = load_checkpoint(path)
        assert (tensors["value"] == facts["number"]).all()
