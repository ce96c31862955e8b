"""Metrics: measured numbers with standard error, unit, split and protocol, and the JSON file that stores them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from flowvae.core.errors import DamagedError, FlowvaeError, one_line
from flowvae.core.files import atomic_write

__all__ = ["Metric", "mean_metric", "mean_se", "merge_metrics", "merged", "read_metrics", "write_metrics"]


@dataclass(frozen=True)
class Metric:
    """A measured number.

    Args:
        name: what was measured.
        value: the number.
        se: its standard error over the data of the split; None if it has none.
        unit: "nats per datum", "bits/dim", "draws", ….
        split: the data it was measured on.
        protocol: identity of the data, draws, seed.
        caution: why the number is unreliable; None if it passes its diagnostics.

    Raises:
        FlowvaeError: for a value or a standard error that is not finite.
    """

    name: str
    value: float
    se: float | None
    unit: str
    split: str
    protocol: dict[str, Any]
    caution: str | None = None

    def __post_init__(self) -> None:
        for kind, number in (("value", self.value), ("standard error", self.se)):
            if number is not None and not math.isfinite(number):
                raise FlowvaeError(
                    f"{self.name} ({self.split}): its {kind} is {number}, so it is not stored; look for extreme values "
                    "in the data and for NaN in the weights."
                )

    def __str__(self) -> str:
        # two digits of the standard error, or of a small value without one; at most four after the point
        size = abs(self.value) if self.se is None else self.se
        digits = 2 if size >= 0.1 or size == 0 else min(4, 1 - math.floor(math.log10(size)))
        spread = "" if self.se is None else f" ± {self.se:.{digits}f}"
        caution = "" if self.caution is None else f"; {self.caution}"
        return f"{self.name}: {self.value:.{digits}f}{spread} {self.unit} ({self.split}){caution}"


def mean_se(values: Tensor) -> tuple[float, float | None]:
    """The mean of independent values, shape (N,), and its standard error; None for a single value."""
    values = values.double()
    se = (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else None
    return values.mean().item(), se


def mean_metric(
    name: str, values: Tensor, unit: str, split: str, protocol: dict[str, Any], caution: str | None = None
) -> Metric:
    """The mean of one value per data point, shape (N,), with its standard error over the data.

    Raises:
        FlowvaeError: for a value that is not finite; names its data point.
    """
    bad = ~values.isfinite()
    if bad.any():
        row = int(bad.nonzero()[0])
        raise FlowvaeError(
            f"{name}: {values[row].item():g} for data point {row} of {split} ({int(bad.sum())} of {len(values)} are "
            "not finite), so it has no mean; look for extreme values in this data point and for NaN in the weights."
        )
    return Metric(name, *mean_se(values), unit, split, protocol, caution)


def write_metrics(path: Path, metrics: list[Metric], weights: str = "") -> None:
    """Write metrics as a JSON list, each with a checksum of the whole list.

    Args:
        path: the file.
        metrics: its new contents.
        weights: checksum of the checkpoint whose weights were measured.
    """
    entries = [asdict(metric) for metric in metrics]
    digest = _digest(entries, weights)
    text = json.dumps([{**entry, "sha256": digest} for entry in entries], indent=2, allow_nan=False)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def merge_metrics(path: Path, new: list[Metric], weights: str = "") -> None:
    """Add metrics to a file, replacing those of the same name and split; only one process may write at a time.

    Raises:
        DamagedError: if the file is not a list of metrics, or holds metrics of other weights.
    """
    if new:
        write_metrics(path, merged(read_metrics(path, weights) if path.exists() else [], new), weights)


def merged(old: Sequence[Metric], new: Sequence[Metric]) -> list[Metric]:
    """Return old and new metrics, without the old ones that have the name and split of a new one."""
    measured = {(metric.name, metric.split) for metric in new}
    return [*(metric for metric in old if (metric.name, metric.split) not in measured), *new]


def read_metrics(path: Path, weights: str = "") -> list[Metric]:
    """Read metrics written by `write_metrics`.

    Raises:
        DamagedError: if the file is not a list of metrics, was edited, or holds metrics of other weights.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        digests = {entry.pop("sha256", None) for entry in entries}
        metrics = [Metric(**entry) for entry in entries]
        reason = "" if digests == {_digest(entries, weights)} else "it does not match its checksum"
        if digests == {None}:
            reason = "it has no checksum, as those of earlier versions"
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
    if reason:
        raise DamagedError(
            f"{path}: does not hold the metrics of this run ({reason}); delete it and evaluate the run again."
        )
    return metrics


def _digest(entries: list[dict[str, Any]], weights: str) -> str:
    """SHA-256 of the metrics as JSON, which keeps every digit, and of the checksum of the weights."""
    return hashlib.sha256(f"{weights}\n{json.dumps(entries)}".encode()).hexdigest()
