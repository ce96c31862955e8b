"""Graphs of tensor operations compiled to machine code, which is cached on disk.

Inductor compiles a graph to a shared library with a C++ interface, in a separate process, while the caller continues. A
library is loaded in milliseconds, without importing inductor.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import pickle
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from flowvae.core.progress import bar
from flowvae.inference.compile import worker

__all__ = ["CompileError", "NativeProgram", "program_cache"]

FORMAT = 1  # format of the files, part of their names
ERROR = re.compile(r"[\w.]*(Error|Exception): ")  # the line of a traceback with the message
KEPT = 100  # libraries to keep; the least recently used ones are deleted


class CompileError(Exception):
    """A graph cannot be compiled on this machine; the message says why."""


class NativeProgram:
    """A graph of tensor operations as a library of machine code.

    Constants of the graph are passed by reference in every call, as in the graph itself.

    Args:
        graph: graph of aten operations on the CPU; its inputs are tensors, its output a list of tensors. Inputs may be
            changed in place.
        inputs: tensors of the shapes, strides, types and device of later inputs.

    Raises:
        CompileError: if there is no directory for the library.
    """

    def __init__(self, graph: GraphModule, inputs: Sequence[Tensor]) -> None:
        bare, self._constants = _without_constants(graph)
        shown = [
            (tuple(value.shape), value.stride(), value.dtype, value.device) for value in (*inputs, *self._constants)
        ]
        self._job = (worker.statements_of(bare.graph), shown, torch.get_num_threads())
        try:
            folder = program_cache()
        except RuntimeError as error:  # a user without a home
            raise CompileError("there is no home directory for programs; name a folder in XDG_CACHE_HOME") from error
        self.path = folder / f"{_digest(*self._job, worker.OPTIONS, _machine())}.so"
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._failure = ""
        self._runner: Any = None

    @property
    def ready(self) -> bool:
        """Whether the library is on disk."""
        return self.path.exists()

    @property
    def compiling(self) -> bool:
        """Whether a process compiles it."""
        return self._process is not None and self._process.poll() is None

    def compile(self) -> None:
        """Start to compile in the background, unless the library is ready or being compiled by this object.

        Raises:
            CompileError: if the machine lacks a compiler, or an earlier attempt of this object has failed.
        """
        if self.ready:
            return
        if self._process is not None:
            if self._process.poll() not in (None, 0):
                raise CompileError(self._reason())
            return
        if any(device.type != "cpu" for *_, device in self._job[1]):
            raise CompileError("machine code is made for the CPU only")
        if compiler() is None:
            raise CompileError("no C++ compiler is installed; install g++ or clang++, or name one in CXX")
        if not sys.executable:
            raise CompileError("this Python has no executable to compile with")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            prune(self.path.parent)
            folder = Path(tempfile.mkdtemp(prefix="job-", dir=self.path.parent))
            with (folder / "graph.pickle").open("wb") as file:
                pickle.dump(self._job, file)
            command = [sys.executable, worker.__file__, str(folder), str(self.path)]
            with (folder / "log.txt").open("wb") as log:
                # in a new session, so that an interrupt from the terminal does not reach the compiler
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        except (OSError, pickle.PicklingError, AttributeError, TypeError) as error:
            raise CompileError(f"{type(error).__name__}: {error}") from error
        self._folder = folder
        _running[:] = [program for program in _running if program.compiling] + [self]

    def wait(self) -> None:
        """Compile and load the library.

        Raises:
            CompileError: if it cannot be compiled or loaded.
        """
        self.compile()
        with bar("compiling", "look", None) as shown:
            while not self.ready:
                assert self._process is not None
                if self._process.poll() is not None and not self.ready:
                    raise CompileError(self._reason())
                time.sleep(0.05)
                shown.update()
        self.load()

    def stop(self) -> None:
        """Stop compiling."""
        if self._process is not None and self.compiling:
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)  # also the compiler that it has started
            self._process.kill()
            self._process.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run the program; the library must be ready.

        Raises:
            CompileError: if the library cannot be loaded, or does not run.
        """
        self.load()
        try:
            found: list[Tensor] = self._runner.run([*inputs, *self._constants])
        except RuntimeError as error:
            raise CompileError(f"{self.path.name} does not run ({str(error).splitlines()[0]})") from error
        return found

    def load(self) -> None:
        """Load the library, unless that has been done.

        Raises:
            CompileError: if it is damaged; it is then deleted.
        """
        if self._runner is not None:
            return
        try:
            with suppress(PermissionError):  # in a directory without write permission
                os.utime(self.path)  # most recently used
            self._runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(self.path), 1)
        except (RuntimeError, OSError, AttributeError) as error:
            with suppress(OSError):
                self.path.unlink()  # the next process compiles it again
            raise CompileError(f"{self.path.name} cannot be loaded ({str(error).splitlines()[0]})") from error

    def _reason(self) -> str:
        if not self._failure:
            log = self._folder / "log.txt" if self._folder else None
            lines = log.read_text(errors="replace").strip().splitlines() if log and log.exists() else []
            errors = [line for line in lines if ERROR.match(line)]
            self._failure = (errors or lines or ["the compiler has ended without a message"])[-1]
            self.stop()
        return self._failure


_running: list[NativeProgram] = []


@atexit.register
def _stop_all() -> None:
    for program in _running:
        program.stop()


def program_cache() -> Path:
    """The folder of compiled programs: `flowvae/programs` in XDG_CACHE_HOME, or in ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "flowvae" / "programs"


def prune(folder: Path) -> None:
    """Delete the least recently used libraries beyond `KEPT`, and files that killed compilers left."""
    libraries = sorted(folder.glob("*.so"), key=_modified, reverse=True)
    for path in libraries[KEPT:]:
        _delete(path)
        _delete(path.with_suffix(".json"))
    for path in (*folder.glob("job-*"), *folder.glob("*.lock"), *folder.glob(".*.tmp")):
        if time.time() - _modified(path) > 86400:
            _delete(path)


def _modified(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:  # another process has deleted it
        return time.time()


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _without_constants(graph: GraphModule) -> tuple[GraphModule, list[Tensor]]:
    """The graph with its constants as further inputs, and the constants."""
    made = Graph()
    found: dict[Node, Node] = {}
    constants: dict[str, Tensor] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            found[node] = made.node_copy(node)
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            constants.setdefault(node.target, getattr(graph, node.target))
    inputs = {name: made.placeholder(f"constant_{name}") for name in constants}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            found[node] = inputs[node.target]
        elif node.op != "placeholder":
            found[node] = made.node_copy(node, found.__getitem__)
    return GraphModule(nn.Module(), made), list(constants.values())


def _digest(*parts: Any) -> str:
    text = "\n".join(map(str, (FORMAT, torch.__version__, *parts)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def _machine() -> str:
    """Properties of the processor that machine code depends on; machines may share a home directory."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return "\n".join([platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability(), *flags])


@cache
def compiler() -> str | None:
    """A C++ compiler, as inductor looks for it."""
    names = [os.environ.get("CXX", "g++"), "g++", "clang++", *(f"g++-{version}" for version in range(14, 9, -1))]
    return next((found for name in names if (found := shutil.which(name))), None)
