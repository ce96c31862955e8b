"""Provenance of trainings: version of the code, machine, threads, versions of the libraries."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from flowvae.inference import choose_device

__all__ = ["Provenance", "checkout", "describe_device", "hash_of_sources"]

PACKAGES = ("torch", "pyro-ppl", "zuko")  # packages whose version can change results


@dataclass(frozen=True)
class Provenance:
    """Code and machine of a training, without names of hosts and users or paths.

    Args:
        flowvae: version of the package.
        commit: commit of the git checkout, with "modified" if files differ from it; empty: not a checkout.
        sources: SHA-256 of the source files of the package, 12 digits.
        versions: versions of Python and of libraries.
        processor: name of the CPU.
        cores: number of cores that the process may use.
        threads: number of threads of each training.
        accelerator: name of the GPU of the training; empty: none.
    """

    flowvae: str
    commit: str
    sources: str
    versions: dict[str, str]
    processor: str
    cores: int
    threads: int
    accelerator: str

    @classmethod
    def here(cls, device: str, threads: int) -> Provenance:
        """Return the provenance of trainings in this process.

        Args:
            device: `Training.device`.
            threads: number of threads of each training.
        """
        return cls(
            version("flowvae"),
            _commit(),
            hash_of_sources(),
            {"Python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            _processor(),
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            threads,
            describe_device(choose_device(device)),
        )

    @property
    def code(self) -> str:
        """Description of the code."""
        commit = f", commit {self.commit}" if self.commit else ""
        libraries = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return f"flowvae {self.flowvae}{commit}, sources {self.sources}; {libraries}"

    @property
    def machine(self) -> str:
        """Description of the machine."""
        cores = f"{self.cores} core{'s' if self.cores != 1 else ''}"
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''} a training"
        return f"{self.processor}, {cores}, {threads}; {self.accelerator or 'no GPU'}"

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        return asdict(self)


def describe_device(device: torch.device) -> str:
    """Return the name of an accelerator; empty for the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "" if device.type == "cpu" else device.type


def checkout() -> Path | None:
    """Return the folder of the git checkout that the package runs from; None if it is installed."""
    root = Path(__file__).resolve().parents[2]  # the links of an editable install lead there
    return root if (root / ".git").exists() and (root / "pyproject.toml").is_file() else None


def hash_of_sources() -> str:
    """Return the SHA-256 of names and contents of all source files of the package, 12 digits.

    It identifies the code if there is no commit, or if files differ from it.
    """
    import flowvae

    digest = hashlib.sha256()
    for folder in sorted(flowvae.__path__):
        for file in sorted(Path(folder).rglob("*.py")):
            digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _commit() -> str:
    root = checkout()
    if root is None:
        return ""
    commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    if commit is None:
        return ""
    return commit[:12] + (" (modified)" if changes else "")


def _git(root: Path, *words: str) -> str | None:
    """Return the output of git; None if git is not installed or fails."""
    command = ["git", "--no-optional-locks", "-C", str(root), *words]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    """Return the name of the CPU's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine() or "unknown processor"
