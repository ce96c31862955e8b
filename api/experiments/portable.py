"""One file with everything of a run but its data, which another machine opens, and its model card."""

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
    """What the file of an exported run holds."""

    run: Opened
    metrics: list[Metric]
    histories: list[pd.DataFrame]  # one row an epoch, the first stage first


def write_file(file: Path, exported: Exported, licence: str = UNKNOWN) -> None:
    """Write a run as one safetensors file with a checksum, and beside it its model card, NAME.md.

    A crash keeps the earlier files.

    Args:
        file: NAME.safetensors.
        exported: the run.
        licence: of the weights, for the card.

    Raises:
        FlowvaeError: for another suffix, a directory that does not exist, parts that cannot be named, and a NAME.md
            that is no model card of an earlier export.
    """
    if file.suffix != SUFFIX:
        raise FlowvaeError(f"{file}: must end in {SUFFIX}.")
    if not file.parent.is_dir():
        raise FlowvaeError(f"{file}: there is no directory {file.parent}; make it first.")
    card = file.with_suffix(".md")
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
    save_checkpoint(file, tensors, facts)
    with atomic_write(card) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _check_card(file: Path) -> None:
    """Refuse to replace a page that somebody else has written.

    Raises:
        FlowvaeError: for one.
    """
    if not os.path.lexists(file):
        return
    try:
        own = not file.is_symlink() and is_card(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        own = False
    if not own:
        raise FlowvaeError(f"{file}: is no model card, and would be replaced by one; move it, or export another name.")


def check_file(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and facts of what `write_file` wrote, after checking them against their checksum.

    Raises:
        DamagedError: if the file is truncated or altered.
        FlowvaeError: if it is another file.
    """
    try:
        tensors, facts = load_checkpoint(file)
    except DamagedError:
        raise DamagedError(f"{file}: is no exported run, or damaged; export the run again, or copy it again.") from None
    if not isinstance(facts.get("exported"), dict):
        raise FlowvaeError(f"{file}: is a checkpoint and no exported run; load its directory, {file.parent}.")
    return tensors, facts


def read_file(file: Path) -> Exported:
    """Read what `write_file` wrote.

    Raises:
        DamagedError: if the file is truncated or altered.
        FlowvaeError: if it is another file.
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
