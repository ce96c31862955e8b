"""`flowvae export`: a run as one file, with its model card."""

from __future__ import annotations

from pathlib import Path

from flowvae.experiments.card import UNKNOWN
from flowvae.experiments.run import load

__all__ = ["export_run"]


def export_run(run: str | Path, file: str | Path, licence: str = UNKNOWN) -> Path:
    """Write a run as one file that another machine opens: `load(run).export(file)`.

    Args:
        run: directory of the run.
        file: where to, NAME.safetensors; an earlier file, and the model card NAME.md beside it, are replaced.
        licence: of the weights, for the card, such as "mit".

    Returns:
        The file.

    Raises:
        FlowvaeError: if it is not a run, or the file cannot be written.
    """
    return load(run).export(file, licence=licence)
