"""Capture of a loss and its gradients as one program of tensor operations, which runs without Pyro and autograd."""

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
from flowvae.inference.compile.recorder import Recorder, TracingError, storage

__all__ = ["EagerWarning", "Program"]

VIEWS = ("expand", "view")


class EagerWarning(UserWarning):
    """Something is computed without the compilation that was asked for; the text says why."""


class _Give(Messenger):
    """Replace changing numbers by tensors."""

    def __init__(self, numbers: list[Callable[[], float]], values: list[Tensor]) -> None:
        super().__init__()
        self.numbers, self.values = numbers, values

    def _pyro_number(self, msg: Any) -> None:
        for number, value in zip(self.numbers, self.values, strict=True):
            if msg["fn"] is number:
                msg["value"], msg["done"] = value, True


class Program:
    """The tensor operations of a loss and, if asked for, its gradients, with all they depend on as inputs.

    Inputs are the parameters and buffers of the modules that the model and guide call, Pyro's parameters, tensor
    arguments and the weights of `annealing`. Random numbers are drawn anew at every run. Other tensors are taken by
    reference, other values as they were.

    Args:
        terms: gives loss and surrogate loss (scalars) of tensor arguments.
        watch: what a run noted.
        arguments: the tensor arguments.
        gradients: whether the gradients are wanted.
        inductor: whether inductor shall compile the program.

    Raises:
        TracingError: if the operations depend on the values that go through them.
    """

    def __init__(
        self,
        terms: Callable[[list[Tensor]], tuple[Tensor, Tensor]],
        watch: DependencyTracker,
        arguments: Sequence[Tensor],
        gradients: bool,
        inductor: bool,
    ) -> None:
        self.modules = list(watch.modules)
        self.sites = list(watch.sites.values())
        self.numbers = watch.numbers
        self.proofs = 0  # how many runs were compared with Pyro's own
        # masks and indices may decide shapes: they are fixed, and a change of one asks for a new program
        self.slots: list[Slot] = []
        self.fixed: list[Slot] = []
        for owner, key in watch.slots():
            value = owner[key]
            changes = value.is_floating_point() or value.is_complex() or id(value) in watch.changed
            (self.slots if changes else self.fixed).append((owner, key))
        # fresh objects, because a tensor is known by its identity and an argument may be a buffer as well
        fresh = [argument.detach().requires_grad_(argument.requires_grad) for argument in arguments]
        values = [torch.tensor(number(), dtype=torch.float64) for number in self.numbers]
        inputs = [*(owner[key] for owner, key in self.slots), *fresh, *values]
        self.differentiated: list[int] = []

        fixed = [owner[key] for owner, key in self.fixed]
        recorder = Recorder(inputs, fixed)
        try:
            with pyro.validation_enabled(False), torch.autograd.set_multithreading_enabled(False), recorder:
                with poutine.block(), _Give(self.numbers, values):
                    loss, surrogate = terms(fresh)
                grads: list[Tensor] = []
                if gradients and surrogate.requires_grad:
                    leaves = [index for index, value in enumerate(inputs) if value.requires_grad]
                    found = torch.autograd.grad(surrogate, [inputs[index] for index in leaves], allow_unused=True)
                    self.differentiated = [i for i, grad in zip(leaves, found, strict=True) if grad is not None]
                    grads = [grad for grad in found if grad is not None]
                    grads = _own([inputs[index] for index in self.differentiated], grads, recorder.lasting())
                loss = loss.detach().clone()
        except TracingError:
            raise
        except Exception as error:
            raise TracingError(_cause(error)) from error
        if any(storage(value) in recorder.mutated for value in fixed):
            raise TracingError("a buffer of whole numbers is written to")
        self.state = self._state()
        graph = recorder.program([loss, *grads])
        self.run = _function(graph)
        if inductor:
            try:
                self.run = _inductor(graph, inputs)
            except Exception as error:
                warnings.warn(f"inductor cannot compile ({_cause(error)}): captured only.", EagerWarning, stacklevel=7)

    def fits(self) -> bool:
        """Whether the modules, parameters and buffers are still such as the program was captured for."""
        try:
            return self.state == self._state()
        except (KeyError, AttributeError):  # a parameter was removed
            return False

    def _state(self) -> Any:
        kept = [owner[key] for owner, key in self.slots]
        fixed = [owner[key] for owner, key in self.fixed]
        return (
            [module.training for module in self.modules],
            [id(value) if value.requires_grad else 0 for value in kept],  # its Pyro site holds the object
            [value.device for value in kept],
            [value.dtype for value in kept],
            [value.shape for value in kept],
            [(id(value), value._version) for value in fixed],
        )

    @torch.no_grad()
    def __call__(self, arguments: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The loss, and leaves with what their gradients grow by, for tensor arguments of the captured shapes."""
        values = [torch.tensor(number(), dtype=torch.float64) for number in self.numbers]
        inputs = [*(owner[key] for owner, key in self.slots), *arguments, *values]
        loss, *gradients = self.run(*inputs)
        return loss, [inputs[index] for index in self.differentiated], gradients


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"


def _own(leaves: list[Tensor], gradients: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The gradients in the layout of their leaves and in memory of their own, as an optimizer expects them."""
    taken = {storage(value) for value in inputs}
    own = []
    for leaf, gradient in zip(leaves, gradients, strict=True):
        memory = storage(gradient)
        if gradient.stride() != leaf.stride() or memory in taken:
            gradient = torch.empty_like(leaf).copy_(gradient)
        taken.add(memory)
        own.append(gradient)
    return own


def _function(graph: GraphModule) -> Callable[..., Any]:
    """The program as one Python function, with direct names for its operations.

    To look up `torch.ops.aten.mul.Tensor` takes longer than to multiply small tensors, and the functions of `torch`
    read their arguments faster than the operations that they stand for.
    """
    code = graph.graph.python_code("self")
    names: dict[str, Any] = dict(code.globals)

    def direct(match: re.Match[str]) -> str:
        library, name, overload = match.groups()
        operation = getattr(getattr(getattr(torch.ops, library), name), overload)
        plain = getattr(torch.Tensor if name in VIEWS else torch, name, None)
        same = type(plain) in (BuiltinFunctionType, MethodDescriptorType) and "Tensor?[]" not in str(operation._schema)
        key = f"{library}_{name}_{overload}"
        names[key] = plain if library == "aten" and same else operation._op
        return key

    exec(re.sub(r"torch\.ops\.(\w+)\.(\w+)\.(\w+)", direct, code.src), names)
    return partial(names["forward"], graph)


def _inductor(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    from torch._inductor.compile_fx import compile_fx

    # torch's own generators, so that a seed means the same as without inductor
    with torch.no_grad():
        compiled: Any = compile_fx(graph, inputs, config_patches={"fallback_random": True})
    run: Callable[..., Any] = compiled
    return run
