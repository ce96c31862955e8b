"""Idx files, compressed or not, and what is said of damaged ones."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from flowvae import FlowvaeError
from flowvae.data.files.idx import read_idx

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, 2), dtype=np.uint8)
CONTENT = struct.pack(">IIII", 0x803, *IMAGES.shape) + IMAGES.tobytes()


def test_the_array_comes_back(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    (tmp_path / "x.gz").write_bytes(gzip.compress(CONTENT))
    for name in ("x", "x.gz"):
        found = read_idx(tmp_path / name, 3, [hashlib.md5(CONTENT).hexdigest()])
        assert (found == IMAGES).all()
        assert found.flags.writeable
    read_idx(tmp_path / "x.gz", 3, [hashlib.md5((tmp_path / "x.gz").read_bytes()).hexdigest()])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (CONTENT[:-1], "24 values, it holds 23"),
        (CONTENT[:10], "no idx file"),
        (b"", "no idx file"),
        (struct.pack(">II", 0x801, 24) + IMAGES.tobytes(), "3 axes"),
        (CONTENT[:-1] + b"\x00", "checksum"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(FlowvaeError, match=rf"/x'.*{match}"):
        read_idx(tmp_path / "x", 3, [hashlib.md5(CONTENT).hexdigest()])


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT)
    for damaged in (packed[:-9], b"no gzip", packed[:20] + bytes(8) + packed[28:]):
        (tmp_path / "x.gz").write_bytes(damaged)
        with pytest.raises(FlowvaeError, match=r"x\.gz'.*damaged|x\.gz'.*header"):
            read_idx(tmp_path / "x.gz", 3)
