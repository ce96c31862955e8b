"""Graphs of tensor operations as CUDA graphs, which are launched as a whole."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule

from flowvae.core.seeds import random_state_kept
from flowvae.inference.compile.native import CompileError

__all__ = ["CudaGraph"]

WARM_UPS = 3  # runs before the capture, in which libraries allocate their memory


class CudaGraph:
    """A graph of tensor operations as a CUDA graph, with the interface of `NativeProgram`.

    An input that is the same tensor in every call is used and changed in place; others are copied to fixed memory.
    Random numbers come from torch's generator, so a seed set between two calls has its usual effect.

    Args:
        graph: graph of aten operations; its inputs are tensors, its output a list of tensors.
        inputs: inputs of the first call.
    """

    ready = True
    compiling = False

    def __init__(self, graph: GraphModule, inputs: Sequence[Tensor]) -> None:
        self._graph = graph
        self._first = list(inputs)
        self._device = next(value.device for value in inputs if value.is_cuda)
        self._captured: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []

    def compile(self) -> None:
        """Do nothing: the graph is captured by its first call."""

    def wait(self) -> None:
        """Do nothing: the graph is captured by its first call."""

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run the program. The outputs are overwritten by the next call.

        Raises:
            CompileError: if the graph cannot be captured.
        """
        if self._captured is None:
            try:
                self._captured = self._capture(inputs)
            except RuntimeError as error:
                raise CompileError(f"no CUDA graph ({str(error).splitlines()[0]})") from error
        for fixed, value in zip(self._inputs, inputs, strict=True):
            if fixed is not value:
                fixed.copy_(value)
        self._captured.replay()
        return self._outputs

    def _capture(self, inputs: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
        kept = [value.is_cuda and value is first for value, first in zip(inputs, self._first, strict=True)]
        self._inputs = [
            value if same else value.to(self._device, copy=True) for value, same in zip(inputs, kept, strict=True)
        ]
        before = [value.clone() for value in self._inputs]
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with random_state_kept(), torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._graph(*self._inputs)
        torch.cuda.current_stream(self._device).wait_stream(side)
        for value, old in zip(self._inputs, before, strict=True):
            value.copy_(old)
        captured = torch.cuda.CUDAGraph()
        with random_state_kept(), torch.cuda.graph(captured):
            self._outputs = self._graph(*self._inputs)
        return captured
