"""`flowvae export`: write a run to one file, with a model card."""

from __future__ import annotations

from pathlib import Path

from flowvae.experiments.card import UNKNOWN
from flowvae.experiments.run import load

__all__ = ["export_run"]


def export_run(run: str | Path, file: str | Path, licence: str = UNKNOWN) -> Path:
    """Write a run to one file that opens on any machine: `load(run).export(file)`.

    Args:
        run: directory of the run.
        file: the file to write, NAME.safetensors; an earlier file, and the model card NAME.md beside it, are replaced.
        licence: licence of the weights, for the card, such as "mit".

    Returns:
        The file.

    Raises:
        FlowvaeError: if it is not a run, or the file cannot be written.
    """
    return load(run).export(file, licence=licence)
