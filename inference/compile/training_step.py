"""A whole training step as one program: loss, gradients, clipping and Adam."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from flowvae.core.seeds import random_state_kept
from flowvae.inference.compile.capture import Program
from flowvae.inference.compile.cuda_graph import CudaGraph
from flowvae.inference.compile.native import CompileError, NativeProgram
from flowvae.inference.optim import Chunk, JointAdam, NonFiniteError

__all__ = ["TrainingStep"]

aten = torch.ops.aten


class TrainingStep:
    """A captured program of loss and gradients with the optimizer's update, as machine code or as a CUDA graph.

    A step is a single call from Python. Parameters and moments change in place, as in `JointAdam`; small ones are
    packed into common memory (`JointAdam.pack`), so that one loop updates them.

    Args:
        program: loss and gradients with respect to parameters of the optimizer.
        optim: the optimizer; its parameters are packed.
        arguments: tensors of the shapes of later arguments.

    Raises:
        CompileError: if the parameters cannot be packed.
    """

    def __init__(self, program: Program, optim: JointAdam, arguments: Sequence[Tensor]) -> None:
        self.program = program
        self.optim = optim
        inputs = [owner[key] for owner, key in program.slots]
        self._learnt = [inputs[index] for index in program.differentiated]
        self._other = [slot for n, slot in enumerate(program.slots) if n not in program.differentiated]
        try:
            self.chunks = optim.pack(self._learnt)
        except ValueError as error:
            raise CompileError(str(error)) from error
        self._example = [argument.clone() for argument in arguments]
        self.graph = _graph(program, self.chunks, self._learnt, optim)
        made = CudaGraph if self.chunks[0].weights.is_cuda else NativeProgram
        self.native = made(self.graph, self._inputs(arguments))

    def _inputs(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        values = [torch.tensor(number(), dtype=torch.float64) for number in self.program.numbers]
        return [
            *self._memory(),
            self.chunks[0].weights.new_tensor(self.optim.rates()),
            *(owner[key] for owner, key in self._other),
            *arguments,
            *values,
        ]

    def _memory(self) -> list[Tensor]:
        return [tensor for chunk in self.chunks for tensor in (chunk.weights, chunk.mean, chunk.square)]

    def learns_as(self, program: Program) -> bool:
        """Whether another program has gradients of the same parameters."""
        inputs = [owner[key] for owner, key in program.slots]
        return {id(inputs[index]) for index in program.differentiated} == set(map(id, self._learnt))

    def fits(self) -> bool:
        """Whether the modules are still those of the program, and the parameters still packed."""
        held = self.optim.packed is self.chunks and all(chunk.holds() for chunk in self.chunks)
        return held and self.program.fits()

    @torch.no_grad()
    def __call__(self, arguments: Sequence[Tensor]) -> float:
        """Take a step; return the loss in nats.

        Raises:
            NonFiniteError: if the loss or the gradient is not finite; the parameters have not changed.
        """
        loss, norm = self.native(*self._inputs(arguments))
        value, length = loss.item(), norm.item()
        if not math.isfinite(value):
            raise NonFiniteError(f"the loss is {value}")
        if not math.isfinite(length):
            raise NonFiniteError(f"the norm of the gradient is {length}")
        self.optim.advance()
        return value

    @torch.no_grad()
    def check(self) -> None:
        """Compare a step on the first arguments with the captured program and Adam, and undo it.

        Raises:
            CompileError: if they differ by more than rounding.
        """
        arguments = self._example
        changing = [*self._memory(), *(owner[key] for owner, key in self._other)]
        before = [value.clone() for value in changing]
        with random_state_kept():
            loss, leaves, gradients = self.program(arguments)
        buffers = [owner[key].clone() for owner, key in self._other]
        _restore(changing, before)
        with random_state_kept():
            found, _ = self.native(*self._inputs(arguments))
        after = [value.clone() for value in changing]
        _restore(changing, before)
        expected = self._adam(dict(zip(map(id, leaves), gradients, strict=True)), before, after)
        if not _close(loss, found):
            raise CompileError(f"its loss is {found.item():.6g} instead of {loss.item():.6g}")
        if not all(_close(*pair, root=3) for pair in zip([*expected, *buffers], after, strict=True)):
            raise CompileError("its gradients, or its updates of parameters or buffers, differ")

    def _adam(self, gradients: dict[int, Tensor], before: list[Tensor], after: list[Tensor]) -> list[Tensor]:
        """The memory after a step of Adam, with weights updated by the moments of the compiled step.

        If a gradient is zero up to rounding, such as for a bias before batch normalization, Adam's first steps move
        the weight by the learning rate, in a direction that depends on rounding.
        """
        flat = []
        for chunk in self.chunks:
            one = torch.zeros_like(chunk.weights)
            for part in chunk.parts:
                gradient = gradients[id(part.parameter)]
                one[part.start : part.start + gradient.numel()] = gradient.reshape(-1)
            flat.append(one)
        norm = torch.nn.utils.get_total_norm(flat)
        if self.optim.clip is not None:
            flat = [one * (self.optim.clip / (norm + 1e-6)).clamp(max=1) for one in flat]
        (beta1, beta2), (rate, root, learning_rate) = self.optim.betas, self.optim.rates()
        expected = []
        for n, (chunk, gradient) in enumerate(zip(self.chunks, flat, strict=True)):
            weights, mean, square = before[3 * n : 3 * n + 3]
            _, moved, size = after[3 * n : 3 * n + 3]
            change = rate * moved / (size.sqrt() / root + self.optim.eps)
            expected += [
                weights * (1 - learning_rate * chunk.decay) - change,
                mean.lerp(gradient, 1 - beta1),
                square.lerp(gradient.square(), 1 - beta2),
            ]
        return expected


def _restore(tensors: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        if not torch.equal(tensor, value):
            tensor.copy_(value)


def _close(expected: Tensor, found: Tensor, root: int = 2) -> bool:
    """Whether two results are equal up to the rounding of long sums, or of deep gradients with `root` 3.

    If the input of a ReLU is zero up to rounding, rounding decides whether a gradient passes. In float32 this changes
    the gradient of a deep convolutional network by about 0.1 %.
    """
    if not expected.is_floating_point():
        return torch.equal(expected, found)
    size, error = expected.double().norm(), (expected.double() - found.double()).norm()
    tolerance = torch.finfo(expected.dtype).eps ** (1 / root)
    return bool(error <= tolerance * size + torch.finfo(expected.dtype).tiny)


def _graph(program: Program, chunks: list[Chunk], learnt: list[Tensor], optim: JointAdam) -> GraphModule:
    """The program's graph on packed parameters, followed by clipping and Adam."""
    build = _Builder()
    memory = [
        [build.graph.placeholder(f"{kind}{n}") for kind in ("weights", "mean", "square")] for n in range(len(chunks))
    ]
    numbers = build.graph.placeholder("numbers")
    given: dict[int, Node] = {}
    for chunk, (weights, _, _) in zip(chunks, memory, strict=True):
        for part in chunk.parts:
            end = part.start + part.parameter.numel()
            piece = build(aten.slice.Tensor, weights, 0, part.start, end) if len(chunk.parts) > 1 else weights
            given[id(part.parameter)] = build(aten.view.default, piece, list(part.parameter.shape))
    parameters = dict(zip(program.differentiated, learnt, strict=True))
    inputs: list[Node] = []
    for n, node in enumerate(node for node in program.graph.graph.nodes if node.op == "placeholder"):
        inputs.append(given[id(parameters[n])] if n in parameters else build.graph.placeholder(node.name))
    loss, *results = build.insert(program.graph, inputs)

    gradients = _by_chunk(build, chunks, {id(p): node for p, node in zip(learnt, results, strict=True)})
    norm = build(
        aten.sqrt.default, build.sum([build(aten.sum.default, build(aten.mul.Tensor, g, g)) for g in gradients])
    )
    finite = build(aten.isfinite.default, build(aten.add.Tensor, norm, loss))
    if optim.clip is not None:  # as torch.nn.utils.clip_grad_norm_
        scale = build(aten.reciprocal.default, build(aten.add.Scalar, norm, 1e-6))
        scale = build(aten.clamp_max.default, build(aten.mul.Scalar, scale, optim.clip), 1.0)
        gradients = [build(aten.mul.Tensor, gradient, scale) for gradient in gradients]
    for chunk, tensors, gradient in zip(chunks, memory, gradients, strict=True):
        for target, value in zip(tensors, _adam(build, tensors, gradient, numbers, chunk.decay, optim), strict=True):
            build(aten.copy_.default, target, build(aten.where.self, finite, value, target))
    build.graph.output([loss, norm])
    build.graph.eliminate_dead_code()
    return GraphModule(build.root, build.graph)


class _Builder:
    """A graph under construction."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.root = nn.Module()

    def __call__(self, operation: Any, *args: Any) -> Node:
        return self.graph.call_function(operation, args)

    def sum(self, nodes: list[Node]) -> Node:
        """The sum of scalars."""
        total = nodes[0]
        for node in nodes[1:]:
            total = self(aten.add.Tensor, total, node)
        return total

    def insert(self, graph: GraphModule, inputs: list[Node]) -> list[Node]:
        """Copy the operations of another graph; return its outputs."""
        found = dict(zip((node for node in graph.graph.nodes if node.op == "placeholder"), inputs, strict=True))
        outputs: list[Node] = []
        for node in graph.graph.nodes:
            if node.op == "get_attr":
                setattr(self.root, node.target, getattr(graph, node.target))
            if node.op == "output":
                outputs = [found[value] for value in node.args[0]]
            elif node.op != "placeholder":
                found[node] = self.graph.node_copy(node, found.__getitem__)
        return outputs


def _by_chunk(build: _Builder, chunks: list[Chunk], gradients: dict[int, Node]) -> list[Node]:
    """The gradient of each chunk, shape (n,)."""
    found = []
    for chunk in chunks:
        pieces = []
        for part in chunk.parts:
            pieces.append(build(aten.reshape.default, gradients[id(part.parameter)], [-1]))
            if part.padding:
                pieces.append(build(aten.new_zeros.default, pieces[-1], [part.padding]))
        found.append(build(aten.cat.default, pieces) if len(pieces) > 1 else pieces[0])
    return found


def _adam(
    build: _Builder, tensors: list[Node], gradient: Node, numbers: Node, decay: float, optim: JointAdam
) -> tuple[Node, Node, Node]:
    """Weights and moments after a step of Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""
    weights, mean, square = tensors
    rate, root, learning_rate = (build(aten.select.int, numbers, 0, n) for n in range(3))
    beta1, beta2 = optim.betas
    mean = build(aten.add.Tensor, mean, build(aten.mul.Scalar, build(aten.sub.Tensor, gradient, mean), 1 - beta1))
    squared = build(aten.mul.Scalar, build(aten.mul.Tensor, gradient, gradient), 1 - beta2)
    square = build(aten.add.Tensor, build(aten.mul.Scalar, square, beta2), squared)
    size = build(aten.mul.Tensor, build(aten.sqrt.default, square), build(aten.reciprocal.default, root))
    change = build(aten.div.Tensor, build(aten.mul.Tensor, mean, rate), build(aten.add.Scalar, size, optim.eps))
    if decay:
        kept = build(aten.rsub.Scalar, build(aten.mul.Scalar, learning_rate, decay), 1.0)
        weights = build(aten.mul.Tensor, weights, kept)
    return build(aten.sub.Tensor, weights, change), mean, square
