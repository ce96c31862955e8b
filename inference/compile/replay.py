"""A function of tensors as a captured program."""

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
    """A function whose operations are captured in its first call and repeated for arguments of the same shapes.

    Arguments of other shapes are passed to the function itself. Modules, their parameters and random numbers may change
    from call to call; all other values are constants from the time of the capture. If the function cannot be captured,
    or if the results of the program differ for the same random numbers, there is one `EagerWarning` and all calls go to
    the function.

    Args:
        function: a function of tensors that returns a tensor; called without gradients.
        compile: "capture", or "inductor" to compile the program as well, which needs a C++ compiler and takes 5 to 40
            seconds.

    Raises:
        FlowvaeError: for another `compile`.
    """

    def __init__(self, function: Callable[..., Tensor], compile: str) -> None:  # noqa: A002
        self.function = function
        self.compile = compile
        check_choice(self, "compile", MODES)
        self.program: Program | None = None
        self.shapes: list[torch.Size] | None = None

    @torch.no_grad()
    def __call__(self, *arguments: Tensor) -> Tensor:
        """The value of the function."""
        shapes = [argument.shape for argument in arguments]
        if self.shapes is None:
            self.shapes = shapes
            try:
                self.program = self._captured(list(arguments))
            except TracingError as error:
                warnings.warn(f"computed without compilation: {error}.", EagerWarning, stacklevel=4)
        if self.program is None or shapes != self.shapes or not self.program.fits():
            return self.function(*arguments)
        return self.program(list(arguments))[0]

    def _captured(self, arguments: list[Tensor]) -> Program:
        def terms(arguments: list[Tensor]) -> tuple[Tensor, Tensor]:
            value = self.function(*arguments)
            return value, value

        with random_state_kept():
            with DependencyTracker() as tracker:
                expected = self.function(*arguments)
            tracker.undo()
        with random_state_kept():
            program = Program(terms, tracker, arguments, gradients=False, inductor=self.compile == "inductor")
            tracker.undo()
        with random_state_kept():
            found = program(arguments)[0]
            tracker.undo()
        tolerance = torch.finfo(expected.dtype).eps ** 0.5
        if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True):
            raise TracingError("the program gives other values than the function")
        return program
