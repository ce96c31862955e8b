"""A loss and its gradients as one program of tensor operations, run without Pyro and autograd."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from types import BuiltinFunctionType, MethodDescriptorType
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.fx import GraphModule

from flowvae.inference.compile.dependency_tracker import DependencyTracker, Slot
from flowvae.inference.compile.native import CompileError, NativeProgram
from flowvae.inference.compile.recorder import Reading, Recorder, TracingError, storage

__all__ = ["EagerWarning", "Program"]

METHODS = ("expand", "view")  # operations that are faster as tensor methods than as functions of torch


class EagerWarning(UserWarning):
    """A computation runs without the requested compilation; the message states why."""


class _Substitute(Messenger):
    """Replace the numbers read by `annealing.current` by tensors."""

    def __init__(self, numbers: list[Callable[[], float]], values: list[Tensor]) -> None:
        super().__init__()
        self.numbers, self.values = numbers, values

    def _pyro_number(self, msg: Any) -> None:
        for number, value in zip(self.numbers, self.values, strict=True):
            if msg["fn"] is number:
                msg["value"], msg["done"] = value, True


class Program:
    """The tensor operations of a loss and, optionally, its gradients.

    Inputs of the program are the tensor arguments, the parameters and buffers of the modules that the loss calls,
    Pyro's parameters, and the annealing weights. Random numbers are drawn in every run. All other tensors, kept by
    reference, and Python values are constants.

    Args:
        terms: a function of the tensor arguments that returns loss and surrogate loss, two scalars.
        tracker: dependencies of a run of `terms`.
        arguments: the tensor arguments.
        gradients: whether to compute gradients.
        inductor: whether to compile the program by inductor.

    Raises:
        TracingError: if the sequence of operations depends on the values of tensors.
    """

    def __init__(
        self,
        terms: Callable[[list[Tensor]], tuple[Tensor, Tensor]],
        tracker: DependencyTracker,
        arguments: Sequence[Tensor],
        gradients: bool,
        inductor: bool,
    ) -> None:
        self.modules = list(tracker.modules)
        self.sites = list(tracker.sites.values())
        self.numbers = tracker.numbers
        self.checked_runs = 0  # number of runs that were compared with Pyro's own
        # Integer and boolean tensors may determine shapes, so they are constants; a change of one needs a new program.
        self.slots: list[Slot] = []
        self.fixed: list[Slot] = []
        for owner, key in tracker.slots():
            value = owner[key]
            changes = value.is_floating_point() or value.is_complex() or id(value) in tracker.changed
            (self.slots if changes else self.fixed).append((owner, key))
        # new tensor objects: the recorder identifies tensors by object, and an argument may also be a buffer
        fresh = [argument.detach().requires_grad_(argument.requires_grad) for argument in arguments]
        values = [torch.tensor(number(), dtype=torch.float64) for number in self.numbers]
        inputs = [*(owner[key] for owner, key in self.slots), *fresh, *values]
        self.differentiated: list[int] = []

        fixed = [owner[key] for owner, key in self.fixed]
        recorder = Recorder(inputs, fixed)
        try:
            with pyro.validation_enabled(False), torch.autograd.set_multithreading_enabled(False), recorder:
                with poutine.block(), _Substitute(self.numbers, values), Reading(recorder):
                    loss, surrogate = terms(fresh)
                grads: list[Tensor] = []
                if gradients and surrogate.requires_grad:
                    leaves = [index for index, value in enumerate(inputs) if value.requires_grad]
                    found = torch.autograd.grad(surrogate, [inputs[index] for index in leaves], allow_unused=True)
                    self.differentiated = [i for i, grad in zip(leaves, found, strict=True) if grad is not None]
                    grads = [grad for grad in found if grad is not None]
                    grads = _unshared([inputs[index] for index in self.differentiated], grads, recorder.lasting())
                loss = loss.detach().clone()
        except TracingError:
            raise
        except Exception as error:
            raise TracingError(_first_line(error)) from error
        if any(storage(value) in recorder.mutated for value in fixed):
            raise TracingError("an integer or boolean buffer is changed in place; a program takes these as constants")
        self.state = self._state()
        self.graph = recorder.program([loss, *grads])
        self.run = _function(self.graph)
        if inductor:
            try:
                self.run = _native(self.graph, inputs)
            except CompileError as error:
                message = f"inductor cannot compile ({error}): captured only."
                warnings.warn(message, EagerWarning, stacklevel=7)

    def fits(self) -> bool:
        """Whether modules, parameters and buffers are still those that the program was captured for, up to values."""
        try:
            return self.state == self._state()
        except (KeyError, AttributeError):  # a parameter was removed
            return False

    def _state(self) -> Any:
        inputs = [owner[key] for owner, key in self.slots]
        fixed = [owner[key] for owner, key in self.fixed]
        return (
            [module.training for module in self.modules],
            [id(value) if value.requires_grad else 0 for value in inputs],  # its Pyro site refers to the object
            [value.device for value in inputs],
            [value.dtype for value in inputs],
            [value.shape for value in inputs],
            [(id(value), value._version) for value in fixed],
        )

    @torch.no_grad()
    def __call__(self, arguments: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Loss, leaves and their gradients, for tensor arguments of the captured shapes."""
        values = [torch.tensor(number(), dtype=torch.float64) for number in self.numbers]
        inputs = [*(owner[key] for owner, key in self.slots), *arguments, *values]
        loss, *gradients = self.run(*inputs)
        return loss, [inputs[index] for index in self.differentiated], gradients


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"


def _unshared(leaves: list[Tensor], gradients: list[Tensor], lasting: list[Tensor]) -> list[Tensor]:
    """The gradients, each in the layout of its leaf and in separate memory, as optimizers expect them."""
    taken = {storage(value) for value in lasting}
    unshared = []
    for leaf, gradient in zip(leaves, gradients, strict=True):
        memory = storage(gradient)
        if gradient.stride() != leaf.stride() or memory in taken:
            gradient = torch.empty_like(leaf).copy_(gradient)
        taken.add(memory)
        unshared.append(gradient)
    return unshared


def _function(graph: GraphModule) -> Callable[..., Any]:
    """The graph as one Python function whose operations are global names.

    This is torch.fx's own source of the graph with shorter names. `GraphModule.forward` looks up
    `torch.ops.aten.mul.Tensor` in every call, which takes longer than to multiply small tensors: 1.3 to 1.6 times the
    time of the whole program. torch.fx compiles its source by `exec` as well; the source contains no user input.
    """
    code = graph.graph.python_code("self")
    names: dict[str, Any] = dict(code.globals)

    def name(match: re.Match[str]) -> str:
        key = "_".join(match.groups())
        names[key] = _fastest(*match.groups())
        return key

    exec(re.sub(r"torch\.ops\.(\w+)\.(\w+)\.(\w+)", name, code.src), names)
    return partial(names["forward"], graph)


def _fastest(library: str, name: str, overload: str) -> Callable[..., Any]:
    """The operation, or the equal function of `torch`, which parses its arguments faster."""
    operation = getattr(getattr(getattr(torch.ops, library), name), overload)
    function: Any = getattr(torch.Tensor if name in METHODS else torch, name, None)
    same = type(function) in (BuiltinFunctionType, MethodDescriptorType)
    same = same and library == "aten" and "Tensor?[]" not in str(operation._schema)
    found: Callable[..., Any] = function if same else operation._op
    return found


def _native(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    native = NativeProgram(graph, inputs)
    native.wait()
    return native
