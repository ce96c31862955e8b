"""Compile a stored graph to a shared library, in a separate process started by `flowvae.inference.compile.native`.

    python worker.py JOB LIBRARY

It does not import flowvae, so that it starts quickly. The library appears at its path when it is complete.
"""

from __future__ import annotations

import operator
import os
import pickle
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

NICE = 10  # lower priority than the training
OPTIONS = {
    # torch's own generators: the same seed gives the same random numbers as without compilation
    "fallback_random": True,
    # fused multiply-add
    "cpp.enable_floating_point_contract_flag": "fast",
}


def main(job: Path, library: Path) -> None:
    """Compile the graph of the folder `job` to the file `library`, and delete the folder."""
    from filelock import FileLock

    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    # a process that compiles the same program waits for the first one
    with FileLock(library.with_suffix(".lock")):
        if not library.exists():
            _compile(job, library)
    shutil.rmtree(job, ignore_errors=True)


def _end_with(parent: int) -> None:
    """End this process and its compilers when the process that has started it is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)  # the process group of this process and its compilers
    os._exit(1)


def _compile(job: Path, library: Path) -> None:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(job / "cache")
    if hasattr(os, "nice"):
        os.nice(NICE)
    import torch
    import torch._inductor

    with (job / "graph.pickle").open("rb") as file:
        statements, shown, threads = pickle.load(file)
    torch.set_num_threads(threads)
    graph = graph_of(statements)
    inputs = []
    for shape, stride, dtype, device in shown:
        inputs.append(torch.empty_strided(shape, stride, dtype=dtype, device=device).zero_())
    with torch.no_grad():
        made = torch._inductor.aot_compile(graph, tuple(inputs), options=OPTIONS)
    calls = Path(str(made)).with_suffix(".json")  # calls of operations without a C interface, if any
    for source, target in ((calls, library.with_suffix(".json")), (Path(str(made)), library)):
        if source.exists():
            temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
            shutil.copyfile(source, temporary)
            os.replace(temporary, target)


def statements_of(graph: Any) -> list[tuple[Any, ...]]:
    """The nodes of a `torch.fx.Graph` as plain values.

    A pickled GraphModule is traced again when it is read, which would turn random numbers into constants.
    """
    from torch.fx.node import map_arg

    def plain(value: Any) -> Any:
        return map_arg(value, lambda node: f"%{node.name}")

    return [
        (node.name, node.op, _name(node.target), plain(node.args), plain(dict(node.kwargs))) for node in graph.nodes
    ]


def graph_of(statements: list[tuple[Any, ...]]) -> Any:
    """The `GraphModule` of what `statements_of` returned."""
    from torch import nn
    from torch.fx import Graph, GraphModule
    from torch.fx.node import map_aggregate

    graph = Graph()
    found: dict[str, Any] = {}

    def nodes(value: Any) -> Any:
        return map_aggregate(value, lambda v: found[v[1:]] if isinstance(v, str) and v.startswith("%") else v)

    for name, op, target, args, kwargs in statements:
        found[name] = graph.create_node(op, _target(target), nodes(args), nodes(kwargs), name)
    return GraphModule(nn.Module(), graph)


def _name(target: Any) -> str:
    if isinstance(target, str):
        return target
    return "getitem" if target is operator.getitem else str(target)


def _target(name: str) -> Any:
    import torch

    if name == "getitem":
        return operator.getitem
    library, *rest = name.split(".")
    if not rest:
        return name  # of a placeholder or the output
    return getattr(getattr(getattr(torch.ops, library), rest[0]), rest[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
