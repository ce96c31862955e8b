"""Checkpoints: one safetensors file, written atomically, that knows when it has been damaged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from flowvae.errors import DamagedError, FlowvaeError
from flowvae.files import atomic_write

__all__ = ["load_checkpoint", "save_checkpoint"]

FORMAT = 1


def save_checkpoint(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON facts as one file; whoever is killed meanwhile leaves the old one.

    Args:
        path: the file.
        tensors: by name; they may share memory.
        facts: anything that JSON can hold.
    """
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    text = json.dumps({"format": FORMAT, **facts})
    metadata = {"facts": text, "sha256": _digest(plain, text)}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(plain, metadata))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_checkpoint` wrote, on the CPU.

    Raises:
        DamagedError: if the file is truncated or altered.
        FlowvaeError: if it is missing, or another version's.
    """
    if not path.is_file():
        raise FlowvaeError(f"{path}: no such checkpoint; the run has not finished its first epoch, or is not here.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text, expected = metadata["facts"], metadata["sha256"]
        facts = json.loads(text)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise DamagedError(f"{path}: truncated or not a checkpoint ({error}); restore it or train again.") from None
    if _digest(tensors, text) != expected:
        raise DamagedError(f"{path}: its contents do not match its checksum; restore it or train again.")
    if facts.get("format") != FORMAT:
        raise FlowvaeError(f"{path}: format {facts.get('format')}; this version reads format {FORMAT}.")
    return tensors, facts


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()
