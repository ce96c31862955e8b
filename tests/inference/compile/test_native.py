"""Machine code of a graph against the graph's own operations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import HANGS
from pair_cases import needs_compiler
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from flowvae.inference.compile import native, worker
from flowvae.inference.compile.native import CompileError, NativeProgram

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def _programs_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def graph() -> GraphModule:
    """y = L⁻¹ ((x + c) ε) with ε ~ N(0, 1); and 1 is added to b in place. L⁻¹ has no C interface in torch."""
    made, root = Graph(), nn.Module()
    root.c = torch.full((5,), 2.0)
    x, b, c = made.placeholder("x"), made.placeholder("b"), made.get_attr("c")
    noise = made.call_function(aten.randn.default, ([5],))
    y = made.call_function(aten.mul.Tensor, (made.call_function(aten.add.Tensor, (x, c)), noise))
    made.call_function(aten.add_.Tensor, (b, 1))
    root.lower = torch.eye(5) + torch.ones(5, 5).tril()
    column = made.call_function(aten.unsqueeze.default, (y, 1))
    y = made.call_function(aten.linalg_solve_triangular.default, (made.get_attr("lower"), column), {"upper": False})
    made.output([y])
    return GraphModule(root, made)


X = torch.arange(5.0)


@needs_compiler
def test_results_random_numbers_and_changes_in_place_are_those_of_the_graph() -> None:
    whole, counts = graph(), torch.zeros(3)
    program = NativeProgram(whole, [X, counts])
    program.wait()
    assert program.ready
    for seed in (0, 1):
        whole.c.add_(1.0)  # a constant is kept by reference
        torch.manual_seed(seed)
        (expected,), follows = whole(X, torch.zeros(3)), torch.rand(2)
        torch.manual_seed(seed)
        (found,) = program(X, counts)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(torch.rand(2), follows)
    assert counts.tolist() == [2.0, 2.0, 2.0]
    # kept on disk: neither this process nor another one compiles it again, nor imports inductor
    again = NativeProgram(graph(), [X, counts])
    assert again.ready
    script = (
        "import sys, torch; torch.set_num_threads(1); "  # as here; programs are made for a number of threads
        "from flowvae.inference.compile.native import NativeProgram; "
        "sys.path.insert(0, sys.argv[1]); from test_native import X, graph; "
        "program = NativeProgram(graph(), [X, torch.zeros(3)]); assert program.ready; torch.manual_seed(0); "
        "print(program(X, torch.zeros(3))[0].tolist()); assert 'torch._inductor.compile_fx' not in sys.modules"
    )
    folders = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=HANGS,
        env={**os.environ, "PYTHONPATH": folders},
    )
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    expected = graph()(X, torch.zeros(3))[0]
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected, rtol=1e-5, atol=1e-6)


def test_a_damaged_library_is_an_error_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    program = NativeProgram(graph(), [X, torch.zeros(3)])
    program.path.parent.mkdir(parents=True)
    program.path.write_bytes(b"not a library")
    with pytest.raises(CompileError, match=program.path.name):
        program(X, torch.zeros(3))
    assert not program.ready


def test_a_graph_survives_as_plain_values() -> None:
    whole = graph()
    bare, constants = native._without_constants(whole)
    again = worker.graph_of(worker.statements_of(bare.graph))
    for made in (bare, again):
        torch.manual_seed(0)
        (found,) = made(X, torch.zeros(3), *constants)
        torch.manual_seed(0)
        assert torch.equal(found, whole(X, torch.zeros(3))[0])
    assert again.code == bare.code


def changed(change: Callable[[GraphModule], list[Tensor]]) -> str:
    whole = graph()
    return NativeProgram(whole, change(whole)).path.name


def test_a_program_is_known_by_its_operations_and_shapes_but_not_by_values() -> None:
    b = torch.zeros(3)

    def other_constant(whole: GraphModule) -> list[Tensor]:
        whole.c.fill_(7.0)
        return [X + 1, b + 1]

    def other_operation(whole: GraphModule) -> list[Tensor]:
        next(node for node in whole.graph.nodes if node.target is aten.add_.Tensor).args = (
            next(node for node in whole.graph.nodes if node.name == "b"),
            2,
        )
        return [X, b]

    name = changed(lambda _: [X, b])
    assert changed(other_constant) == name
    different = [
        other_operation,
        lambda _: [X, torch.zeros(4)],
        lambda _: [X.double(), b],
        lambda _: [torch.zeros(10)[::2], b],
    ]
    names = [changed(change) for change in different]
    assert len({name, *names}) == 5


@pytest.mark.parametrize("cause", ["no compiler", "broken compiler", "no folder"])
def test_what_cannot_be_compiled_is_an_error(cause: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if cause == "no compiler":
        monkeypatch.setattr(native, "compiler", lambda: None)
    elif cause == "broken compiler":
        broken = tmp_path / "worker.py"
        broken.write_text("print('ValueError: no such header'); raise SystemExit('See the manual.')")
        monkeypatch.setattr(worker, "__file__", str(broken))
        monkeypatch.setattr(native, "compiler", lambda: "c++")
    else:
        (tmp_path / "cache").write_text("a file")
        monkeypatch.setattr(native, "compiler", lambda: "c++")
    program = NativeProgram(graph(), [X, torch.zeros(3)])
    message = {"no compiler": r"C\+\+ compiler", "broken compiler": "no such header", "no folder": "cache"}[cause]
    for _ in range(2):
        with pytest.raises(CompileError, match=message):
            program.wait()
    assert not program.compiling
    assert not list(tmp_path.glob("cache/flowvae/programs/*"))


def test_stopping_ends_the_process_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    slow = tmp_path / "worker.py"
    slow.write_text("import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])")
    monkeypatch.setattr(worker, "__file__", str(slow))
    monkeypatch.setattr(native, "compiler", lambda: "c++")
    program = NativeProgram(graph(), [X, torch.zeros(3)])
    program.compile()
    program.compile()  # does not start another one
    assert program.compiling
    assert not program.ready
    program.stop()
    assert not program.compiling
    assert not list(program.path.parent.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="processes have no group there")
def test_the_compiler_ends_with_the_process_that_has_started_it(tmp_path: Path) -> None:
    beats = tmp_path / "beats"
    (tmp_path / "compiler.py").write_text(
        f"import sys, time\nsys.path.insert(0, {str(Path(worker.__file__).parent)!r})\nimport worker\n"
        "def beat(job, library):\n    while True:\n        library.open('a').write('.')\n        time.sleep(0.02)\n"
        "worker._compile = beat\nworker.main(*map(worker.Path, sys.argv[1:]))\n"
    )
    (tmp_path / "parent.py").write_text(
        "import os, subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, *sys.argv[1:]], start_new_session=True)\n"
        "while not os.path.exists(sys.argv[3]):\n    time.sleep(0.02)\n"
    )
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path / "compiler.py"), str(tmp_path), str(beats)]
    subprocess.run(command, check=True, timeout=HANGS)
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        before = beats.stat().st_size
        time.sleep(2.0)
        if beats.stat().st_size == before:
            return
    pytest.fail("the compiler goes on alone")


def test_the_least_recently_used_programs_are_deleted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(native, "KEPT", 2)
    for age, name in enumerate(["new.so", "used.so", "old.so", "older.so", ".x.so.1.tmp", "theirs.txt"]):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (time.time() - 1e5 * age,) * 2)
    (tmp_path / "job-x").mkdir()
    (tmp_path / "gone.so").symlink_to(tmp_path / "nowhere")  # as a file that another process has just deleted
    os.utime(tmp_path / "gone.so", (0, 0), follow_symlinks=False)
    native.prune(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"new.so", "used.so", "theirs.txt", "job-x"}


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(CompileError, match="XDG_CACHE_HOME"):
        NativeProgram(graph(), [X, torch.zeros(3)])
