"""Ctrl-C in programs."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import HANGS

from flowvae.core.interruption import Interruption

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")


@pytest.fixture(autouse=True)
def _not_ignored() -> Iterator[None]:
    """Programs inherit an ignored SIGINT, as under nohup or in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(code: str, tmp_path: Path, times: int = 1) -> tuple[int, list[str]]:
    """Exit status and lines of stderr of a program that is interrupted once it has printed a line."""
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(code))
    with subprocess.Popen(
        [sys.executable, str(file)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()
        for _ in range(times):
            program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=HANGS)
        return program.returncode, said.splitlines()


@posix
@pytest.mark.parametrize(
    "body",
    {
        "sleep": "print(flush=True); time.sleep(60)",
        "turned into another error": """
            try:
                print(flush=True); time.sleep(60)
            except KeyboardInterrupt:
                raise ImportError("a library's answer") from None
        """,
        "swallowed in a destructor": """
            class Slow:
                def __del__(self): print(flush=True); time.sleep(60)
            Slow()
            time.sleep(60)
        """,
        "while it starts": "interruption.orderly = False; print(flush=True); time.sleep(60)",
        "an impatient user": """
            try:
                print(flush=True); time.sleep(60)
            finally:
                time.sleep(0.3)
        """,
    }.items(),
    ids=lambda case: case[0],
)
def test_one_sentence_and_no_traceback(body: tuple[str, str], tmp_path: Path) -> None:
    code = f"""
import time, sys
from flowvae.core.interruption import Interruption
with Interruption("interrupted.") as interruption:
    interruption.orderly = True
    try:
{textwrap.indent(textwrap.dedent(body[1]).strip(), " " * 8)}
    except BaseException as error:
        if not interruption.happened:
            raise
        sys.exit(interruption.say())
"""
    status, said = interrupted(code, tmp_path, times=3 if "impatient" in body[0] else 1)
    assert said == ["interrupted."]
    assert status == 130


def test_a_callers_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    with Interruption("interrupted.", program=False) as interruption:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interruption.happened
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == before


@posix
def test_a_process_that_ignores_interruptions_goes_on_ignoring_them(tmp_path: Path) -> None:
    code = """
    import signal, time
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from flowvae.core.interruption import Interruption
    with Interruption("interrupted."):
        print(flush=True)
        time.sleep(0.5)
    """
    assert interrupted(code, tmp_path) == (0, [])


COMMAND = """
    import sys, threading, time
    sys.argv = ["flowvae", {words}]

    def when() -> None:
        while not {condition}:
            time.sleep(0.001)
        print(flush=True)

    threading.Thread(target=when, daemon=True).start()
    from flowvae.cli.command import main
    sys.exit(main())
"""


@posix
@pytest.mark.parametrize(
    ("words", "condition"),
    [
        ("'list'", "'torch' in sys.modules"),
        ("'list'", "'flowvae.flows' in sys.modules"),
        ("'train', '--out', {out!r}, '--draws', '5'", "__import__('os').path.exists({out!r} + '/experiment.yaml')"),
    ],
    ids=["imports torch", "imports flowvae", "trains"],
)
def test_a_command_ends_with_one_sentence(words: str, condition: str, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    code = COMMAND.format(words=words.format(out=out), condition=condition.format(out=out))
    status, said = interrupted(code, tmp_path)
    sentences = [line for line in said if "interrupted" in line]
    assert len(sentences) == 1
    assert not [line for line in said if "Traceback" in line or line.startswith(" ")]
    assert status == 130
    if "train" in words:
        assert "--resume" in sentences[0]
