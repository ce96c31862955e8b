"""Recording of tensor operations as a graph that can be run again.

torch's `make_fx` with passes that fold constants and merge equal views gives the same operations, but it takes four to
six times as long to record them, and control flow that depends on values is found only at the end.
"""

from __future__ import annotations

import operator
import traceback
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack

__all__ = ["Reading", "Recorder", "TracingError", "is_recording", "storage"]

# their results depend on the shape of their argument only, not on its values
SHAPED = {f"aten::{name}" for name in ("full_like", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like")}

READS = {Tensor.numpy, Tensor.tolist, Tensor.__array__}


class TracingError(Exception):
    """A loss cannot be repeated as a fixed sequence of tensor operations; the message says why."""


class Reading(TorchFunctionMode):
    """Refuse conversions of tensors to NumPy arrays or lists, which a `Recorder` does not see."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            self.recorder.refuse_reading(args[0])
        return func(*args, **(kwargs or {}))


class Recorder(TorchDispatchMode):
    """Record the tensor operations that run inside the context.

    A tensor that depends on no input is *fixed*. It is computed once, and control flow may depend on its values.

    Args:
        inputs: tensors whose values change from run to run.
        fixed: tensors whose values do not change.

    Raises:
        TracingError: in the operation by which a shape or control flow depends on the values of inputs, or that uses a
            tensor that requires a gradient and is not an input.
    """

    def __init__(self, inputs: list[Tensor], fixed: list[Tensor]) -> None:
        super().__init__()
        self.graph = Graph()
        self.root = nn.Module()
        # Tensors are identified by object while they are alive. They are not kept alive, since all intermediate values
        # together take more memory than a step needs at any time.
        self.nodes: dict[int, Node] = {}
        self.references: dict[int, weakref.ref[Tensor]] = {}
        self.fixed: dict[Node, Tensor] = {}
        self.mutated: set[int] = set()  # storages
        self.views: dict[int, dict[Any, Node]] = {}  # by storage, then by geometry
        self.outer = list(inputs)
        for n, value in enumerate(inputs):
            self._know(value, self.graph.placeholder(f"i{n}"))
        for value in fixed:
            self.fixed[self._constant(value)] = value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if func is torch.ops.aten.lift_fresh.default and id(given[0]) not in self.nodes:
            # a literal such as torch.tensor(1.0); copied, because later operations may write into it
            func, args, kwargs = torch.ops.aten.clone.default, (given[0],), {}
            self.fixed[self._constant(given[0])] = given[0]
        fixed = func._schema.name in SHAPED or all(self._is_fixed(value) for value in given)
        fixed = fixed and torch.Tag.nondeterministic_seeded not in func.tags
        if not fixed:
            self._refuse(func, args)
        out = func(*args, **kwargs)
        memory = {storage(value) for value in given}
        for value in pytree.tree_leaves(out):
            if isinstance(value, Tensor) and storage(value) not in memory:  # new memory: forget what was there before
                self.views.pop(storage(value), None)
                self.mutated.discard(storage(value))
        if isinstance(out, Tensor) and not func._schema.is_mutable and storage(out) in memory:
            for value in given:
                self._views(value).setdefault(_geometry(value), self._node(value))
            if (same := self._views(out).get(_geometry(out))) is not None:
                self._know(out, same)  # a view equal to an earlier one: detached, or transposed twice
                return out
        node = self.graph.call_function(func, *pytree.tree_map_only(Tensor, self._node, (args, kwargs)))
        if func._schema.is_mutable:
            fixed = False
            for value, argument in zip(args, func._schema.arguments, strict=False):
                if argument.is_write and isinstance(value, Tensor):
                    self.mutated.add(storage(value))
        several = isinstance(out, tuple | list)
        for n, value in enumerate(out if several else (out,)):
            if isinstance(value, Tensor):
                one = self.graph.call_function(operator.getitem, (node, n)) if several else node
                self._know(value, one)
                if storage(value) in memory and not func._schema.is_mutable:
                    self._views(value)[_geometry(value)] = one
                if fixed:
                    self.fixed[one] = value
        return out

    def _know(self, value: Tensor, node: Node) -> None:
        """Associate the node with the tensor while the tensor is alive."""
        key = id(value)
        self.nodes[key] = node
        self.references[key] = weakref.ref(value, lambda _: self._forget(key))

    def _forget(self, key: int) -> None:
        self.nodes.pop(key, None)
        self.references.pop(key, None)

    def _views(self, value: Tensor) -> dict[Any, Node]:
        return self.views.setdefault(storage(value), {})

    def _constant(self, value: Tensor) -> Node:
        name = f"c{len(self.outer)}"
        self.outer.append(value)
        setattr(self.root, name, value)
        node = self.graph.get_attr(name)
        self._know(value, node)
        return node

    def _node(self, value: Tensor) -> Node:
        if id(value) in self.nodes:
            return self.nodes[id(value)]
        if value.requires_grad:
            raise TracingError(
                "a tensor that requires a gradient is neither an argument nor a parameter of a module that is called "
                f"or of Pyro's parameter store ({_place()})"
            )
        return self._constant(value)

    def _is_fixed(self, value: Tensor) -> bool:
        return self.nodes.get(id(value)) in self.fixed and storage(value) not in self.mutated

    def refuse_reading(self, value: Tensor) -> None:
        """Raise `TracingError` if the value of a tensor, which is about to be read, changes from run to run."""
        if id(value) in self.nodes and not self._is_fixed(value):
            raise TracingError(f"the value of a tensor is read ({_place()})")

    def lasting(self) -> list[Tensor]:
        """The tensors that outlive a run of the program: inputs, constants and fixed values."""
        return [*self.outer, *self.fixed.values()]

    def _refuse(self, func: Any, args: Any) -> None:
        shape = torch.Tag.dynamic_output_shape in func.tags
        if func is torch.ops.aten.index.Tensor:  # the shape depends on the values of boolean indices only
            masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            shape = not all(map(self._is_fixed, masks))
        if shape or torch.Tag.data_dependent_output in func.tags:
            what = "a shape" if shape else "control flow"
            raise TracingError(f"{what} depends on the value of a tensor ({func} at {_place()})")

    def program(self, outputs: list[Tensor]) -> GraphModule:
        """The recorded operations without dead code, with fixed values as constants."""
        results = [self._node(value) for value in outputs]
        self.graph.output(results)
        for node, value in self.fixed.items():
            if node.op == "call_function" and node not in results and self._is_fixed(value):
                with self.graph.inserting_before(node):
                    setattr(self.root, f"f_{node.name}", value)
                    node.replace_all_uses_with(self.graph.get_attr(f"f_{node.name}"))
        self.graph.eliminate_dead_code()
        return GraphModule(self.root, self.graph)


def is_recording() -> bool:
    """Whether the operations that run now are being recorded."""
    return any(isinstance(mode, Recorder) for mode in _get_current_dispatch_mode_stack())


def storage(value: Tensor) -> int:
    """Identifier of a tensor's memory; autograd's zero tensors without memory are identified by object."""
    return id(value) if value._is_zerotensor() else value.untyped_storage().data_ptr()


def _geometry(value: Tensor) -> tuple[Any, ...]:
    """Identifier of a view: its memory, elements and layout."""
    shown = value.storage_offset(), value.shape, value.stride(), value.dtype, value.is_conj(), value.is_neg()
    return storage(value) or id(value), *shown


def _place() -> str:
    """The innermost line outside of torch, in the model or in a library of distributions."""
    frames = traceback.extract_stack()[:-1]
    own = [frame for frame in frames if frame.filename != __file__ and "/torch/" not in frame.filename]
    path = Path(own[-1].filename)
    return f"{path.parent.name}/{path.name}:{own[-1].lineno}"
