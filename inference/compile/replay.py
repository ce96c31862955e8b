"""A function of tensors as captured programs."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from flowvae.core.errors import check_choice
from flowvae.core.seeds import random_state_kept
from flowvae.inference.compile.capture import EagerWarning, Program
from flowvae.inference.compile.compiled import MODES
from flowvae.inference.compile.dependency_tracker import DependencyTracker
from flowvae.inference.compile.native import CompileError
from flowvae.inference.compile.recorder import TracingError

__all__ = ["Replay"]

CALLS = 40  # calls of a Pyro program that take about as long as the capture of its operations


class Replay:
    """A function whose operations are captured and repeated, one program for all arguments of the same shapes.

    The first 40 calls for given shapes run the function, and the next one captures it, so the capture takes at most
    about half of the time. Modules, their parameters and random numbers may change from call to call; all other values
    are constants from the time of the capture. If the function cannot be captured, or if the results of a program
    differ for the same random numbers, all calls run the function.

    Args:
        function: a function of tensors that returns a tensor; called without gradients, but may differentiate inside.
        compile: "capture", or "inductor" to compile the program of the first shapes as well, which needs a C++ compiler
            and takes 5 to 40 seconds. If this fails, there is an `EagerWarning`.

    Raises:
        FlowvaeError: for another `compile`.
    """

    def __init__(self, function: Callable[..., Tensor], compile: str = "capture") -> None:  # noqa: A002
        self.function = function
        self.compile = compile
        check_choice(self, "compile", MODES)
        self.programs: dict[tuple[torch.Size, ...], Program] = {}
        self.eager = False
        self._calls: Counter[tuple[torch.Size, ...]] = Counter()

    @torch.no_grad()
    def __call__(self, *arguments: Tensor) -> Tensor:
        """The value of the function."""
        shapes = tuple(argument.shape for argument in arguments)
        program = self.programs.get(shapes)
        if program is None:
            self._calls[shapes] += 1
            if self.eager or self._calls[shapes] <= CALLS:
                return self.function(*arguments)
            try:
                program = self.programs[shapes] = self._captured(list(arguments))
            except TracingError as error:
                self.eager = True
                if self.compile == "inductor":
                    warnings.warn(f"computed without compilation: {error}.", EagerWarning, stacklevel=4)
                return self.function(*arguments)
        return program(list(arguments))[0] if program.fits() else self.function(*arguments)

    def _captured(self, arguments: list[Tensor]) -> Program:
        def terms(arguments: list[Tensor]) -> tuple[Tensor, Tensor]:
            value = self.function(*arguments)
            return value, value

        with random_state_kept():
            with DependencyTracker() as tracker:
                expected = self.function(*arguments)
            tracker.undo()
        inductor = self.compile == "inductor" and not self.programs
        with random_state_kept():
            program = Program(terms, tracker, arguments, gradients=False, inductor=inductor)
            tracker.undo()
        with random_state_kept():
            try:
                found = program(arguments)[0]
            except CompileError as error:
                raise TracingError(str(error)) from error
            tracker.undo()
        tolerance = torch.finfo(expected.dtype).eps ** 0.5
        if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True):
            raise TracingError("the program gives other values than the function")
        return program
