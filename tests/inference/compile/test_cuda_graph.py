"""CUDA graphs against the operations that they repeat."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.fx import Graph, GraphModule

from flowvae.inference.compile.cuda_graph import CudaGraph

aten = torch.ops.aten


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_results_random_numbers_and_changes_in_place_are_those_of_the_graph() -> None:
    made = Graph()
    w, x, weight = (made.placeholder(name) for name in ("w", "x", "weight"))
    noise = made.call_function(aten.randn_like.default, (x,))
    y = made.call_function(aten.mul.Tensor, (made.call_function(aten.add.Tensor, (x, noise)), weight))
    made.call_function(aten.copy_.default, (w, made.call_function(aten.add.Tensor, (w, y))))
    made.output([y])
    graph = GraphModule(nn.Module(), made)
    w, expected_w = torch.zeros(5, device="cuda"), torch.zeros(5, device="cuda")
    first = torch.ones(5, device="cuda")
    program = CudaGraph(graph, [w, first, torch.tensor(1.0, dtype=torch.float64)])
    for seed in (0, 1, 0):
        x, weight = torch.full((5,), float(seed), device="cuda"), torch.tensor(0.5 + seed, dtype=torch.float64)
        torch.manual_seed(seed)
        (expected,) = graph(expected_w, x, weight)
        torch.manual_seed(seed)
        (found,) = program(w, x, weight)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(w, expected_w)
