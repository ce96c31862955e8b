"""Checkpoints: one safetensors file, written atomically, with a checksum that reveals damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from flowvae.core.errors import DamagedError, FlowvaeError, one_line
from flowvae.core.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["checkpoint_digest", "history_table", "load_checkpoint", "save_checkpoint"]

FORMAT = 2


def save_checkpoint(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON facts as one file; a crash keeps the previous file.

    Args:
        path: the file.
        tensors: tensors by name; they may share memory.
        facts: values that JSON can hold.
    """
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    text = json.dumps({"format": FORMAT, **facts})
    metadata = {"facts": text, "sha256": _digest(plain, text)}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(plain, metadata))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and facts written by `save_checkpoint`, on the CPU.

    Returns:
        Tensors by name, and the facts; "sha256" among them is the checksum of both.

    Raises:
        DamagedError: if the file is truncated or altered.
        FlowvaeError: if it is missing, or of another version.
    """
    with _opened(path) as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text, expected = metadata["facts"], metadata["sha256"]
        facts = json.loads(text)
    if _digest(tensors, text) != expected:
        raise DamagedError(f"{path}: its contents do not match its checksum; restore it, or train again (--overwrite).")
    if facts.get("format") != FORMAT:
        raise FlowvaeError(f"{path}: format {facts.get('format')}; this version reads format {FORMAT}.")
    return tensors, facts | {"sha256": expected}


def checkpoint_digest(path: Path) -> str:
    """Return the checksum in a checkpoint, which identifies its weights without reading them.

    Raises:
        DamagedError: if the file is not a checkpoint.
        FlowvaeError: if it is missing.
    """
    with _opened(path) as file:
        digest: str = file.metadata()["sha256"]
    return digest


def history_table(rows: list[dict[str, float]], best_epoch: int) -> pd.DataFrame:
    """Table of the epochs, with a column for whether the weights were kept."""
    import pandas as pd

    history = pd.DataFrame(rows)
    history["kept"] = history["epoch"] == best_epoch
    return history


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise FlowvaeError(f"{path}: no such checkpoint; the run has not finished its first epoch or is elsewhere.")
    path.open("rb").close()  # raises PermissionError, which safe_open reports as damage
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise DamagedError(
            f"{path}: truncated or not a checkpoint ({one_line(error)}); restore it, or train again (--overwrite)."
        ) from None


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()
