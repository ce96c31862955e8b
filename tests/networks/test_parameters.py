"""Parameters that Pyro is told of and that stay in their modules."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, JitTrace_ELBO, JitTraceMeanField_ELBO, Trace_ELBO
from pyro.optim import Adam
from torch import Tensor

from flowvae import FlowvaeError
from flowvae.flows import IAF
from flowvae.guides import AutoFlow
from flowvae.models import LinearGaussian
from flowvae.networks import declare_parameters

X = torch.tensor([[0.4, -1.0, 0.2]])


class Guide(torch.nn.Module):
    """A Gaussian around a learned mean."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor, size: int | None = None) -> None:
        declare_parameters("guide", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", pyro.distributions.Normal(self.loc, 1.0).to_event(1))


def pair() -> tuple[LinearGaussian, Guide]:
    torch.manual_seed(0)
    return LinearGaussian(torch.randn(3, 2), torch.zeros(3), scale=0.7), Guide()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_trace_can_be_copied(copied: Callable[[Any], Any]) -> None:
    _, guide = pair()
    with torch.no_grad():
        trace = poutine.trace(guide).get_trace(X)
    other = copied(trace)
    assert trace.nodes["guide.loc"]["value"].unconstrained() is guide.loc
    assert torch.equal(other.nodes["guide.loc"]["value"].unconstrained(), guide.loc)
    assert torch.equal(other.nodes["z"]["value"], trace.nodes["z"]["value"])
    pickle.dumps(guide)  # the pointer is not on the parameter


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("loss", [JitTrace_ELBO, JitTraceMeanField_ELBO])
def test_pyro_jit_is_refused(loss: Callable[[], Any]) -> None:
    """It looks for parameters in the store, where another module's may have the same names."""
    model, guide = pair()
    pyro.param("guide.loc", torch.ones(2))
    with pytest.raises(FlowvaeError, match=r"Guide .*CompiledTrace_ELBO"):
        SVI(model, guide, Adam({"lr": 0.1}), loss()).step(X)
    assert not guide.loc.any()
    automatic = AutoFlow(model, IAF(hidden_features=(8,)))
    with pytest.raises(FlowvaeError, match="CompiledTrace_ELBO"):
        SVI(model, automatic, Adam({"lr": 0.1}), loss()).step(X)
    pyro.clear_param_store()


def test_a_step_inside_a_block_is_no_jit() -> None:
    model, guide = pair()
    with poutine.block():
        SVI(model, guide, Adam({"lr": 0.1}), Trace_ELBO()).step(X)
    assert guide.loc.any()
