"""What a module that is run as a program says when it fails."""

from __future__ import annotations

import errno
import os

import pytest

from flowvae.core.errors import FlowvaeError
from flowvae.core.script import run_script


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (FlowvaeError("runs/a\nb: exists."), [r"runs/a\nb: exists."]),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a\nb"), [r"a\nb", "No space left"]),
        (PermissionError("no name"), ["no name"]),
    ],
    ids=str,
)
def test_what_a_user_can_fix_ends_a_script_with_one_line(error: Exception, parts: list[str]) -> None:
    def main() -> int:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_script(main)
    said = ended.value.code
    assert isinstance(said, str)  # Python writes it to stderr and ends with status 1
    assert len(said.splitlines()) == 1
    assert all(part in said for part in parts)


def test_a_script_ends_with_the_status_of_its_main_function(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    for main, status in ((lambda: 0, 0), (lambda: 1, 1), (interrupted, 130)):
        with pytest.raises(SystemExit) as ended:
            run_script(main)
        assert ended.value.code == status
    assert "interrupted" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):  # a fault of the program keeps its traceback
        run_script(lambda: 1 // 0)
