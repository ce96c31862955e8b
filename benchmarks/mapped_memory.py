"""Peak memory of training on memory-mapped files of growing size.

    python benchmarks/mapped_memory.py                          # files of 25, 100, 400 and 1600 MB
    python benchmarks/mapped_memory.py --megabytes 4 40         # others

A file has images of 28×28 bytes, most of them zeros that take no disk space. Each file is opened as `data:mapped`,
checked, identified, and used for a training of one epoch with validation, by a process with a limit of 3 GB for its own
memory: the largest file takes 6.4 GB as float32. Peak memory is the system's number for the whole process. If the data
were kept in memory, it would grow by four times the size of the file; the only part that grows is the indices of the
splits, about 50 bytes per data point.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIDE = 28
LIMIT = 3 * 10**9  # bytes


def write(path: Path, megabytes: int) -> int:
    """Write a sparse file of about this size; return the number of its images."""
    rows = megabytes * 10**6 // SIDE**2
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, SIDE, SIDE))
    generator = np.random.default_rng(0)
    for row in range(0, rows, 1000):
        array[row] = generator.integers(0, 256, (SIDE, SIDE))
    return rows


def train(path: Path) -> tuple[float, float]:
    """Train a small VAE for one epoch; return the peak memory of this process in MB, and seconds."""
    # imported here, since the parent process does not need it
    import torch

    from flowvae import MLP, Experiment, Training
    from flowvae.core.parts import parse_likelihood
    from flowvae.data import Mapped

    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    torch.set_num_threads(1)
    start = time.perf_counter()
    Experiment(
        latent=2,
        encoder=MLP((16,)),
        decoder=MLP((16,)),
        data=Mapped(path, parse_likelihood("binomial:255")),
        inference=Training(epochs=1, batch_size=1024, device="cpu", compile="none", validation_draws=1),
    ).run(progress=False)
    unit = 1 if sys.platform == "darwin" else 1000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[25, 100, 400, 1600], help="sizes of the files")
    sizes = parser.parse_args().megabytes
    print(f"{'file':>8} {'images':>9} {'peak':>8} {'seconds':>8}")
    processes = multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1)  # a new one for each size
    with tempfile.TemporaryDirectory() as folder, processes as pool:
        for megabytes in sizes:
            path = Path(folder) / f"{megabytes}.npy"
            rows = write(path, megabytes)
            peak, seconds = pool.apply(train, (path,))
            print(f"{megabytes:>5} MB {rows:>9} {peak:>5.0f} MB {seconds:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
