"""The progress bars that work shows on a terminal."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from flowvae.core import progress


class Terminal(io.StringIO):
    """Standard error of a user who looks at it."""

    def isatty(self) -> bool:
        return True


class Bars:
    """Records the bars that appear, at once and not after seconds.

    Attributes:
        ended: description, units that were counted and units in all, of each bar that has ended.
        terminal: what was written there.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ended: list[tuple[str, int, int | None]] = []
        self.terminal = Terminal()
        bars = self

        class Recorded(progress.Bar):
            def __init__(self, *how: Any, **settings: Any) -> None:
                self.is_open = True
                super().__init__(*how, **settings)
                self.mininterval = 0

            def close(self) -> None:
                if self.is_open and not self.disable:
                    bars.ended.append((self.desc.removesuffix(": "), self.n, self.total))
                self.is_open = False
                super().close()

        monkeypatch.setattr(progress, "Bar", Recorded)
        monkeypatch.setattr(progress, "DELAY", 0.0)
        monkeypatch.setattr(sys, "stderr", self.terminal)
