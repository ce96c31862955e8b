"""What all ELBOs of a surrogate loss share: modes, and errors before a step."""

from __future__ import annotations

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from objective_cases import case
from pyro.infer import SVI
from pyro.optim import Adam
from torch import Tensor

from flowvae import FlowvaeError
from flowvae.inference import (
    BetaTraceELBO,
    BidirectionalTraceELBO,
    CompiledTrace_ELBO,
    DReGTraceELBO,
    EagerWarning,
    FreeBitsTraceELBO,
    IWAETraceELBO,
    PathTraceELBO,
    RenyiTraceELBO,
)
from flowvae.inference.objectives.surrogate import SurrogateELBO
from flowvae.inference.optim import NonFiniteError

EVERY = (BetaTraceELBO, BidirectionalTraceELBO, DReGTraceELBO, FreeBitsTraceELBO, IWAETraceELBO, RenyiTraceELBO)


@pytest.mark.parametrize("make", [*EVERY, PathTraceELBO, CompiledTrace_ELBO])
@pytest.mark.parametrize("draws", [0, -1, 1.5])
def test_a_number_of_draws_that_is_none_is_refused(make: type[SurrogateELBO], draws: float) -> None:
    with pytest.raises(FlowvaeError, match=f"num_particles = {draws}"):
        make(num_particles=draws)


@pytest.mark.parametrize("make", EVERY)
def test_it_is_the_loss_of_pyros_svi(make: type[SurrogateELBO]) -> None:
    """With a guide of Pyro's parameter store, and without saying how many plates there are."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(len(x)))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.7))

    x = torch.tensor([2.0, -1.0])
    svi = SVI(model, guide, Adam({"lr": 0.05}), loss=make(num_particles=3, vectorize_particles=True))
    for _ in range(60):
        svi.step(x)
    assert math.isfinite(svi.evaluate_loss(x))
    found = pyro.param("loc").detach()
    assert 0 < found[0] < 2.2
    assert -1.2 < found[1] < 0
    pyro.clear_param_store()


@pytest.mark.filterwarnings("ignore::flowvae.inference.EagerWarning")
@pytest.mark.parametrize("compile", ["none", "capture"])
def test_a_loss_that_is_not_finite_leaves_no_gradient(compile: str) -> None:  # noqa: A002
    model, guide, x = case(3)
    x = torch.full_like(x, math.inf)
    elbo = IWAETraceELBO(compile=compile, max_plate_nesting=1)
    with pyro.validation_enabled(False), pytest.raises(NonFiniteError):
        elbo.loss_and_grads(model, guide, x)
    assert all(p.grad is None for p in (*model.parameters(), *guide.parameters()))


def test_what_cannot_be_captured_is_computed_by_pyro() -> None:
    model, guide, x = case(3)

    def moody(x: Tensor) -> None:
        if x.sum() > 0:  # control flow that depends on the data
            model(x)
        else:
            model(x)

    elbos = [IWAETraceELBO(compile=mode, max_plate_nesting=1) for mode in ("none", "capture")]
    losses = []
    for elbo in elbos:
        torch.manual_seed(0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            losses.append(elbo.loss_and_grads(moody, guide, x))
    assert losses[0] == losses[1]
    assert [warning.category for warning in caught] == [EagerWarning]


def test_another_mode_is_refused() -> None:
    with pytest.raises(FlowvaeError, match=r"compile = 'fast'"):
        IWAETraceELBO(compile="fast")
