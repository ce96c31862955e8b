"""Files in the idx format of MNIST, compressed or not."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowvae.core.errors import FlowvaeError, shown_path
from flowvae.core.memory import check_memory

__all__ = ["read_idx"]

BYTES = 8  # the code of unsigned bytes in the header


def read_idx(path: Path, axes: int, checksums: Sequence[str] = ()) -> NDArray[Any]:
    """The array of bytes of an idx file, or of one compressed by gzip.

    Args:
        path: the file; compressed if its suffix is .gz.
        axes: number of axes of the array: 3 for images, 1 for labels.
        checksums: accepted MD5 checksums of the file or its uncompressed content; empty: not checked.

    Raises:
        FlowvaeError: for a damaged file, or one with other contents.
    """
    where, remedy = shown_path(path), "copy or download it again"
    try:
        stored = path.read_bytes()
        content = gzip.decompress(stored) if path.suffix == ".gz" else stored
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "damaged"
        raise FlowvaeError(f"{where}: cannot be read ({reason}); {remedy}.") from None
    start = 4 + 4 * axes
    if content[:4] != bytes((0, 0, BYTES, axes)) or len(content) < start:
        raise FlowvaeError(f"{where}: is no idx file of bytes with {axes} axes; {remedy}.")
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    if math.prod(shape) != len(content) - start:
        raise FlowvaeError(
            f"{where}: its header says {math.prod(shape):,} values, it holds {len(content) - start:,}; {remedy}."
        )
    if checksums and not {_md5(stored), _md5(content)} & {*checksums}:
        raise FlowvaeError(f"{where}: its checksum is not that of the data set's file; {remedy}.")
    check_memory(where, len(content), "keep fewer images in it")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()  # frombuffer's array is read-only


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
