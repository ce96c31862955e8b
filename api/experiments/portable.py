"""Exported runs: one file with everything except the data, and its model card."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from flowvae.core.errors import DamagedError, FlowvaeError
from flowvae.core.files import atomic_write
from flowvae.evaluation import Metric
from flowvae.experiments.card import UNKNOWN, is_card, model_card, opening
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.reading import Opened, open_pair
from flowvae.experiments.signature import Signature
from flowvae.inference import best_weights, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SUFFIX", "Exported", "check_file", "read_file", "write_file"]

SUFFIX = ".safetensors"


class Exported(NamedTuple):
    """The content of an exported run."""

    run: Opened
    metrics: list[Metric]
    histories: list[pd.DataFrame]  # one row an epoch, the first stage first


def write_file(file: Path, exported: Exported, licence: str = UNKNOWN) -> None:
    """Write a run to one safetensors file with a checksum, and its model card beside it, NAME.md.

    A crash keeps the previous files.

    Args:
        file: NAME.safetensors.
        exported: the run.
        licence: licence of the weights, for the card.

    Raises:
        FlowvaeError: for another suffix, a directory that does not exist, parts without a name, files that cannot be
            written, and an existing file or NAME.md that is not from an earlier export.
    """
    if file.suffix != SUFFIX:
        raise FlowvaeError(f"{file}: must end in {SUFFIX}.")
    if not file.parent.is_dir():
        raise FlowvaeError(f"{file}: there is no directory {file.parent}; create it first.")
    card = file.with_suffix(".md")
    _check_replaced(file)
    _check_card(card)
    run = exported.run
    tensors = {
        f"best/{name}.{key}": value
        for name, part in zip(("model", "guide"), run.pair, strict=True)
        for key, value in part.state_dict().items()
    }
    facts = {
        "exported": {
            "experiment": run.experiment.to_dict(),
            "signature": run.signature.to_dict(),
            "data": run.identity,
            "checkpoint": run.checkpoint,
            "metrics": [asdict(metric) for metric in exported.metrics],
            "histories": [history.to_dict("records") for history in exported.histories],
        }
    }
    text = model_card(exported, file.stem, opening(exported, f'flowvae.load("{file.name}")'), licence)
    try:
        save_checkpoint(file, tensors, facts)
        with atomic_write(card) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FlowvaeError(f"{error.filename}: cannot be written ({error.strerror}); name another file.") from None


def _check_replaced(file: Path) -> None:
    """Check that a file is free or an exported run, which may be replaced.

    Raises:
        FlowvaeError: for any other file, such as the checkpoint of a run.
    """
    if not os.path.lexists(file):
        return
    try:
        check_file(file)
    except (FlowvaeError, OSError):
        raise FlowvaeError(
            f"{file}: is not an exported run, or damaged, and would be replaced by one; delete it, or name another "
            "file."
        ) from None


def _check_card(file: Path) -> None:
    """Check that a file is free or holds a model card of an earlier export, which may be replaced.

    Raises:
        FlowvaeError: for any other file.
    """
    if not os.path.lexists(file):
        return
    try:
        own = not file.is_symlink() and is_card(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        own = False
    if not own:
        raise FlowvaeError(f"{file}: is not a model card, but would be replaced by one; move it, or use another name.")


def check_file(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and facts of an exported run, after verifying the checksum.

    Raises:
        DamagedError: if the file is truncated or altered.
        FlowvaeError: if it is not an exported run.
    """
    try:
        tensors, facts = load_checkpoint(file)
    except DamagedError:
        raise DamagedError(f"{file}: is not an exported run, or damaged; export or copy the run again.") from None
    if not isinstance(facts.get("exported"), dict):
        raise FlowvaeError(f"{file}: is a checkpoint and not an exported run; load the directory that it is in.")
    return tensors, facts


def read_file(file: Path) -> Exported:
    """Read an exported run.

    Raises:
        DamagedError: if the file is truncated or altered.
        FlowvaeError: if it is not an exported run.
    """
    import pandas as pd

    tensors, facts = check_file(file)
    stored: dict[str, Any] = facts["exported"]
    try:
        experiment = Experiment.from_dict(stored["experiment"])
        signature = Signature.from_dict(stored["signature"])
    except FlowvaeError as error:
        raise FlowvaeError(f"{file}: {error}") from None
    pair = open_pair(str(file), experiment, signature, best_weights(tensors))
    opened = Opened(experiment, signature, pair, stored["data"], stored["checkpoint"])
    metrics = [Metric(**entry) for entry in stored["metrics"]]
    return Exported(opened, metrics, [pd.DataFrame(rows) for rows in stored["histories"]])
