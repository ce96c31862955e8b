"""One file with everything of a run but its data, which another machine opens."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flowvae.core.errors import DamagedError, FlowvaeError
from flowvae.evaluation import Metric
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.reading import Opened, open_pair
from flowvae.experiments.signature import Signature
from flowvae.inference import best_weights, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SUFFIX", "Exported", "read_file", "write_file"]

SUFFIX = ".safetensors"


class Exported(NamedTuple):
    """What the file of an exported run holds."""

    run: Opened
    metrics: list[Metric]
    histories: list[pd.DataFrame]  # one row an epoch, the first stage first


def write_file(file: Path, exported: Exported) -> None:
    """Write a run as one safetensors file with a checksum; a crash keeps the earlier file.

    Raises:
        FlowvaeError: for another suffix, a directory that does not exist, or parts that cannot be named.
    """
    if file.suffix != SUFFIX:
        raise FlowvaeError(f"{file}: must end in {SUFFIX}.")
    if not file.parent.is_dir():
        raise FlowvaeError(f"{file}: there is no directory {file.parent}; make it first.")
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
    save_checkpoint(file, tensors, facts)


def read_file(file: Path) -> Exported:
    """Read what `write_file` wrote.

    Raises:
        DamagedError: if the file is truncated or altered.
        FlowvaeError: if it is another file.
    """
    import pandas as pd

    try:
        tensors, facts = load_checkpoint(file)
    except DamagedError:
        raise DamagedError(f"{file}: is no exported run, or damaged; export the run again, or copy it again.") from None
    stored: dict[str, Any] | None = facts.get("exported")
    if stored is None:
        raise FlowvaeError(f"{file}: is a checkpoint and no exported run; load its directory, {file.parent}.")
    try:
        experiment = Experiment.from_dict(stored["experiment"])
        signature = Signature.from_dict(stored["signature"])
    except FlowvaeError as error:
        raise FlowvaeError(f"{file}: {error}") from None
    pair = open_pair(str(file), experiment, signature, best_weights(tensors))
    opened = Opened(experiment, signature, pair, stored["data"], stored["checkpoint"])
    metrics = [Metric(**entry) for entry in stored["metrics"]]
    return Exported(opened, metrics, [pd.DataFrame(rows) for rows in stored["histories"]])
