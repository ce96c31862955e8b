"""A function of one tensor as a captured program."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from flowvae.core.errors import check_choice
from flowvae.core.seeds import random_state_kept
from flowvae.inference.compile.capture import EagerWarning, Program
from flowvae.inference.compile.compiled import MODES
from flowvae.inference.compile.dependency_tracker import DependencyTracker
from flowvae.inference.compile.recorder import TracingError

__all__ = ["Replay"]


class Replay:
    """Captures the function at its first call and repeats its tensor operations for arguments of that shape.

    Arguments of other shapes go to the function itself. Modules, their parameters and random numbers may change from
    call to call, everything else stays what it was. Where the function cannot be captured, or the program gives
    something else than the function does with the same random numbers, an `EagerWarning` says so once, and the
    function is called.

    Args:
        function: gives a tensor of a tensor; no gradients go through it.
        compile: "capture", or "inductor" to have the program compiled too, which takes a C++ compiler and 5 to 40
            seconds.

    Raises:
        FlowvaeError: for another `compile`.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], compile: str) -> None:  # noqa: A002
        self.function = function
        self.compile = compile
        check_choice(self, "compile", MODES)
        self.program: Program | None = None
        self.shape: torch.Size | None = None

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """What the function gives."""
        if self.shape is None:
            self.shape = x.shape
            try:
                self.program = self._captured(x)
            except TracingError as error:
                warnings.warn(f"computed without compilation: {error}.", EagerWarning, stacklevel=4)
        if self.program is None or x.shape != self.shape or not self.program.fits():
            return self.function(x)
        return self.program([x])[0]

    def _captured(self, x: Tensor) -> Program:
        def terms(arguments: list[Tensor]) -> tuple[Tensor, Tensor]:
            value = self.function(arguments[0])
            return value, value

        with random_state_kept():
            with DependencyTracker() as watch:
                expected = self.function(x)
            watch.undo()
        with random_state_kept():
            program = Program(terms, watch, [x], gradients=False, inductor=self.compile == "inductor")
            watch.undo()
        with random_state_kept():
            found = program([x])[0]
            watch.undo()
        tolerance = torch.finfo(expected.dtype).eps ** 0.5
        if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True):
            raise TracingError("its program gives other values than the function")
        return program
