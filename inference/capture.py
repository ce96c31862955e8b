"""Capture of a loss and its gradients as one program of tensor operations, which runs without Pyro and autograd."""

from __future__ import annotations

import operator
import re
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, MethodDescriptorType
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["EagerWarning", "Program", "Uncapturable", "Watch"]

# their results depend on the shape of the tensor that they are given, and not on its values
SHAPED = {f"aten::{name}" for name in ("full_like", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like")}
Slot = tuple[Any, str]  # something that holds tensors by name, and a name
VIEWS = ("expand", "view")


class EagerWarning(UserWarning):
    """Something is computed without the compilation that was asked for; the text says why."""


class Uncapturable(Exception):  # noqa: N818  (what happened, not what class it is of)
    """A loss is no fixed program of tensor operations; the text says why not."""


class Watch(Messenger):
    """Notes what a model and its guide depend on while they run: modules, parameters and changing numbers.

    Modules are those that are called, and all inside them; parameters are Pyro's `param` statements; numbers are
    those of `annealing.current`. Buffers are remembered as they were, for `undo`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.modules: dict[nn.Module, None] = {}
        self.sites: dict[str, Any] = {}
        self.numbers: list[Callable[[], float]] = []
        self.changed: set[int] = set()
        self._before: list[tuple[Tensor, Tensor]] = []

    def __enter__(self) -> Any:
        self._hook = register_module_forward_pre_hook(self._called)
        return super().__enter__()

    def __exit__(self, *args: Any) -> Any:
        self._hook.remove()
        return super().__exit__(*args)

    def _called(self, module: nn.Module, _: object) -> None:
        for part in module.modules() if module not in self.modules else ():
            if part not in self.modules:
                self.modules[part] = None
                self._before += [(value, value.clone()) for value in part._buffers.values() if value is not None]

    def _pyro_post_param(self, msg: Any) -> None:
        self.sites[msg["name"]] = msg.copy()

    def _pyro_number(self, msg: Any) -> None:
        if not any(msg["fn"] is number for number in self.numbers):
            self.numbers.append(msg["fn"])

    @torch.no_grad()
    def undo(self) -> None:
        """Give the buffers that the run has changed the values that they had before it."""
        for buffer, value in self._before:
            if not torch.equal(buffer, value):
                self.changed.add(id(buffer))
                buffer.copy_(value)

    def slots(self) -> list[Slot]:
        """Where the parameters and buffers are kept: they are looked up at every run, for they may be replaced."""
        found: dict[int, Slot] = {}
        for module in self.modules:
            for owner in (module._parameters, module._buffers):
                found |= {id(value): (owner, key) for key, value in owner.items() if value is not None}
        stored = pyro.get_param_store()._params
        for name, site in self.sites.items():
            leaf = site["value"].unconstrained()
            if stored.get(name) is leaf:
                found[id(leaf)] = (_Store(), name)
            else:
                found.setdefault(id(leaf), ({name: leaf}, name))
        return list(found.values())

    def leaves(self) -> list[Tensor]:
        """The parameters."""
        return [owner[key] for owner, key in self.slots() if owner[key].requires_grad]


class _Store:
    """Pyro's parameters as the optimizer sees them, whatever has happened to the store."""

    def __getitem__(self, name: str) -> Tensor:
        return pyro.get_param_store()._params[name]


class _Give(Messenger):
    """Replace changing numbers by tensors."""

    def __init__(self, numbers: list[Callable[[], float]], values: list[Tensor]) -> None:
        super().__init__()
        self.numbers, self.values = numbers, values

    def _pyro_number(self, msg: Any) -> None:
        for number, value in zip(self.numbers, self.values, strict=True):
            if msg["fn"] is number:
                msg["value"], msg["done"] = value, True


def _memory(value: Tensor) -> int:
    """Where a tensor's numbers lie; the zeros that autograd has not written anywhere are a place of their own."""
    return id(value) if value._is_zerotensor() else value.untyped_storage().data_ptr()


def _geometry(value: Tensor) -> tuple[Any, ...]:
    """Which numbers in memory it shows, and how."""
    memory = _memory(value)
    shown = value.storage_offset(), value.shape, value.stride(), value.dtype, value.is_conj(), value.is_neg()
    return memory or id(value), *shown


class _Recorder(TorchDispatchMode):
    """Write down every tensor operation while it happens.

    What depends on nothing that changes is *fixed*: such values may decide what Python does, and are computed once.

    Args:
        inputs: tensors whose values change.
        fixed: tensors whose values do not.
    """

    def __init__(self, inputs: list[Tensor], fixed: list[Tensor]) -> None:
        super().__init__()
        self.graph = Graph()
        self.root = nn.Module()
        self.nodes: dict[int, Node] = {id(value): self.graph.placeholder(f"i{n}") for n, value in enumerate(inputs)}
        self.fixed: dict[Node, Tensor] = {}
        self.mutated: set[int] = set()
        self.views: dict[Any, Node] = {}
        self.alive: list[Any] = []  # else another tensor might get the identity of one that is gone
        self.outer = list(inputs)
        for value in fixed:
            self.fixed[self._constant(value)] = value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if func is torch.ops.aten.lift_fresh.default and id(given[0]) not in self.nodes:
            # a literal; a copy of it, because what follows may write into it
            func, args, kwargs = torch.ops.aten.clone.default, (given[0],), {}
            self.fixed[self._constant(given[0])] = given[0]
        fixed = func._schema.name in SHAPED or all(self._is_fixed(value) for value in given)
        fixed = fixed and torch.Tag.nondeterministic_seeded not in func.tags
        if not fixed:
            self._refuse(func, args)
        out = func(*args, **kwargs)
        self.alive.append(out)
        memory = {_memory(value) for value in given}
        if isinstance(out, Tensor) and not func._schema.is_mutable and _memory(out) in memory:
            for value in given:
                self.views.setdefault(_geometry(value), self._node(value))
            if _geometry(out) in self.views:  # detached, transposed twice, viewed as what it is
                self.nodes[id(out)] = self.views[_geometry(out)]
                return out
        node = self.graph.call_function(func, *pytree.tree_map_only(Tensor, self._node, (args, kwargs)))
        if func._schema.is_mutable:
            fixed = False
            for value, argument in zip(args, func._schema.arguments, strict=False):
                if argument.is_write and isinstance(value, Tensor):
                    self.mutated.add(_memory(value))
        several = isinstance(out, tuple | list)
        for n, value in enumerate(out if several else (out,)):
            if isinstance(value, Tensor):
                one = self.graph.call_function(operator.getitem, (node, n)) if several else node
                self.nodes[id(value)] = one
                if _memory(value) in memory and not func._schema.is_mutable:
                    self.views[_geometry(value)] = one
                if fixed:
                    self.fixed[one] = value
        return out

    def _constant(self, value: Tensor) -> Node:
        name = f"c{len(self.outer)}"
        self.outer.append(value)
        setattr(self.root, name, value)
        self.nodes[id(value)] = self.graph.get_attr(name)
        return self.nodes[id(value)]

    def _node(self, value: Tensor) -> Node:
        if id(value) in self.nodes:
            return self.nodes[id(value)]
        if value.requires_grad:
            raise Uncapturable(
                "a tensor that requires a gradient is neither an argument nor a parameter of a module that is called "
                f"or of Pyro's store ({_place()})"
            )
        return self._constant(value)

    def _is_fixed(self, value: Tensor) -> bool:
        return self.nodes.get(id(value)) in self.fixed and _memory(value) not in self.mutated

    def lasting(self) -> list[Tensor]:
        """Tensors that outlive a run of the program."""
        return [*self.outer, *self.fixed.values()]

    def _refuse(self, func: Any, args: Any) -> None:
        shape = torch.Tag.dynamic_output_shape in func.tags
        if func is torch.ops.aten.index.Tensor:  # by numbers, or by a fixed mask, it is harmless
            chosen = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            shape = not all(map(self._is_fixed, chosen))
        if shape or torch.Tag.data_dependent_output in func.tags:
            what = "a shape" if shape else "what Python does next"
            raise Uncapturable(f"{what} depends on the value of a tensor ({func} at {_place()})")

    def program(self, outputs: list[Tensor]) -> GraphModule:
        """What was recorded, without what has no effect on the outputs and with fixed values for what is fixed."""
        results = [self._node(value) for value in outputs]
        self.graph.output(results)
        for node, value in self.fixed.items():
            if node.op == "call_function" and node not in results and self._is_fixed(value):
                with self.graph.inserting_before(node):
                    setattr(self.root, f"f_{node.name}", value)
                    node.replace_all_uses_with(self.graph.get_attr(f"f_{node.name}"))
        self.graph.eliminate_dead_code()
        return GraphModule(self.root, self.graph)


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
        Uncapturable: if the operations depend on the values that go through them.
    """

    def __init__(
        self,
        terms: Callable[[list[Tensor]], tuple[Tensor, Tensor]],
        watch: Watch,
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
        recorder = _Recorder(inputs, fixed)
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
        except Uncapturable:
            raise
        except Exception as error:
            raise Uncapturable(_cause(error)) from error
        if any(_memory(value) in recorder.mutated for value in fixed):
            raise Uncapturable("a buffer of whole numbers is written to")
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


def _place() -> str:
    """The line of the model's code, or of a library of distributions, that is running."""
    frames = traceback.extract_stack()[:-1]
    own = [frame for frame in frames if frame.filename != __file__ and "/torch/" not in frame.filename]
    path = Path(own[-1].filename)
    return f"{path.parent.name}/{path.name}:{own[-1].lineno}"


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"


def _own(leaves: list[Tensor], gradients: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The gradients in the layout of their leaves and in memory of their own, as an optimizer expects them."""
    taken = {_memory(value) for value in inputs}
    own = []
    for leaf, gradient in zip(leaves, gradients, strict=True):
        memory = _memory(gradient)
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
