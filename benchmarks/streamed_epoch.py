"""An epoch on streamed data compared with one on a tensor: seconds, memory, and equality of the weights.

    python benchmarks/streamed_epoch.py                                # 10⁶ rows of 64 numbers: 256 MB
    python benchmarks/streamed_epoch.py --rows 62500 250000 1000000    # how memory grows

`fit` runs one epoch, with validation on 128 rows, for the pair of `growth.py` (MAF prior, captured program) on one
thread. Every repeat of an arm runs in a separate process, one after the other. Arms:

    tensor: all rows in memory.
    mapped: a memory-mapped `.npy`.
    items, items + 1 worker: a torch `Dataset` that reads one row per call from the file, as a `TorchSource` whose
        `DataLoader` has no worker or one worker.

Results are minima over the repeats: wall-clock time, CPU time of this process (without the worker) and their ratios to
those of the tensor; peak memory above that before the epoch, which does not include the tensor's rows. The only part
that grows with the rows is their order in the epoch. "equal": the weights equal those of the tensor bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from growth import MIB, Point, alone, forget_peak, held, pair, peak, prepare
from torch import Tensor
from torch.utils.data import Dataset

from flowvae.data import TorchSource
from flowvae.inference import Training, fit

FEATURES = 64
ARMS = ("tensor", "mapped", "items", "items + 1 worker")


class Rows(Dataset[Tensor]):
    """The rows of a `.npy` of float32, read one by one."""

    def __init__(self, path: Path) -> None:
        array = np.load(path, mmap_mode="r")
        self.rows, self.start = len(array), array.offset
        self.file = os.open(path, os.O_RDONLY)

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, number: int) -> Tensor:
        size = 4 * FEATURES
        return torch.frombuffer(bytearray(os.pread(self.file, size, self.start + number * size)), dtype=torch.float32)


def write(path: Path, rows: int) -> None:
    """Write a file of counts from 0 to 16, as float32."""
    array = np.lib.format.open_memmap(path, "w+", np.float32, (rows, FEATURES))
    generator = np.random.default_rng(0)
    for start in range(0, rows, 2**16):
        part = array[start : start + 2**16]
        part[:] = generator.integers(0, 17, part.shape)


def epoch(arm: str, path: Path, batch: int) -> dict[str, Any]:
    """Run one epoch of an arm."""
    point = Point(batch=batch)
    prepare(point)
    model, guide = pair(point)
    mapped = np.load(path, mmap_mode="r")
    valid = torch.from_numpy(np.array(mapped[:128]))
    data: Any = mapped
    if arm == "tensor":
        data = torch.from_numpy(np.array(mapped))
    elif arm != "mapped":
        data = TorchSource(Rows(path), workers=int("worker" in arm))
    forget_peak()
    before, started, used = held(), time.perf_counter(), time.process_time()
    settings = Training(batch_size=batch, epochs=1, compile="capture", device="cpu")
    fit(model, guide, data, valid, settings, seed=0, progress=False)
    weights = [value.numpy().tobytes() for part in (model, guide) for value in part.state_dict().values()]
    return {
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - used,
        "mib": (peak() - before) / MIB,
        "weights": hashlib.sha256(b"".join(weights)).hexdigest(),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10**6])
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 1024], help="rows of a batch")
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    print(f"{'rows':>8} {'batch':>5} {'':16} {'seconds':>8} {'ratio':>6} {'CPU':>8} {'ratio':>6} {'MiB':>6} equal")
    with tempfile.TemporaryDirectory() as folder:
        for rows in given.rows:
            path = Path(folder) / f"{rows}.npy"
            write(path, rows)
            for batch in given.batches:
                arms = ["tensor", *(arm for arm in given.arms if arm != "tensor")]
                found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
                for _ in range(given.repeats):
                    for arm in arms:
                        found[arm].append(alone(epoch, arm, path, batch))
                least = {
                    arm: {key: min(one[key] for one in several) for key in several[0]} for arm, several in found.items()
                }
                for arm, row in least.items():
                    ratios = [row[key] / least["tensor"][key] for key in ("seconds", "cpu")]
                    equal = "yes" if row["weights"] == least["tensor"]["weights"] else "NO"
                    print(
                        f"{rows:8} {batch:5} {arm:16} {row['seconds']:8.1f} {ratios[0]:6.2f} {row['cpu']:8.1f} "
                        f"{ratios[1]:6.2f} {row['mib']:6.0f} {equal}",
                        flush=True,
                    )
            path.unlink()


if __name__ == "__main__":
    main()
