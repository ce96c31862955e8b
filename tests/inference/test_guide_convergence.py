"""How far the location of a flow guide is from its optimum, where the posterior is a known Gaussian."""

from __future__ import annotations

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from flowvae import IAF, RealNVP
from flowvae.guides import AutoFlow
from flowvae.inference import FiniteTraceELBO, GuideSettings, NotConvergedWarning, fit_autoguide
from flowvae.inference.guide_convergence import remaining_shift
from flowvae.inference.optim import NonFiniteError
from flowvae.networks import MLP

COVARIANCE = torch.tensor([[2.0, 1.5, 0.0], [1.5, 2.0, -0.4], [0.0, -0.4, 0.3]])


def gaussian() -> None:
    pyro.sample("z", dist.MultivariateNormal(torch.tensor([3.0, -2.0, 1.0]), COVARIANCE))


def means(y: Tensor, size: int = 50) -> None:
    """A mean per data point around a common mean."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("data", len(y), subsample_size=size) as index:
        theta = pyro.sample("theta", dist.Normal(mu, 0.7))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=y[index])


@pytest.mark.parametrize("affine", ["full", "diagonal"])
def test_the_way_that_is_left_is_that_of_the_known_optimum(affine: str) -> None:
    """The guide is N(loc, L Lᵀ); the way is L⁻¹ (mean − loc) where L is that of the posterior."""
    covariance = COVARIANCE if affine == "full" else COVARIANCE.diagonal().diag_embed()
    mean = torch.tensor([3.0, -2.0, 1.0])

    def model() -> None:
        pyro.sample("z", dist.MultivariateNormal(mean, covariance))

    guide = AutoFlow(model, RealNVP(1, (4,)), affine=affine)
    guide()
    factor = torch.linalg.cholesky(covariance)
    way = torch.tensor([0.5, -4.0, 1.0])
    layer = guide.affine_layer
    layer.restart(mean - factor @ way, factor)
    with torch.no_grad():  # other parameters for the same Gaussian
        layer.log_scale.fill_(math.log(2.0))
        layer.unit.div_(2.0)
    elbo = FiniteTraceELBO(num_particles=2000, vectorize_particles=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        found = remaining_shift(lambda: elbo.loss_and_grads(model, guide), guide, layer, 8)
    assert found is not None
    assert found.distance == pytest.approx(4.0, abs=0.15)
    assert found.standard_error < 0.05
    assert found.is_clear
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in guide.parameters())


@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_a_fit_is_not_lost_if_a_later_draw_is_not_finite(fault: str) -> None:
    guide = AutoFlow(gaussian, RealNVP(1, (4,)))
    guide()
    calls = []

    def evaluate() -> None:
        calls.append(0)
        if len(calls) == 3 and fault == "loss":
            raise NonFiniteError("the loss is inf")
        guide.affine_layer.shift.grad = torch.full((3,), math.nan if len(calls) == 3 else 1.0)

    assert remaining_shift(evaluate, guide, guide.affine_layer, 5) is None


def test_a_fit_that_ended_too_early_says_so() -> None:
    y = 2 + 1.2 * torch.randn(1000, generator=torch.Generator().manual_seed(0))
    encoder: dict[str, nn.Module | MLP] = {"data": MLP((16,))}
    with pytest.warns(NotConvergedWarning, match=r"200 steps.*0\.001"):
        fit = fit_autoguide(
            means,
            AutoFlow(means, IAF(), encoder=encoder),
            GuideSettings(steps=200, learning_rate=0.001, particles=2),
            (y,),
            progress=False,
        )
    assert fit.remaining is not None
    assert fit.remaining.distance > 10


def test_a_guide_without_a_joint_flow_has_no_location() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = AutoFlow(model, IAF(), encoder={"data": MLP((4,))})
    fit = fit_autoguide(model, guide, GuideSettings(steps=200, particles=2), (torch.ones(5),), progress=False)
    assert fit.remaining is None


def test_a_fit_that_has_converged_is_silent() -> None:
    guide = AutoFlow(gaussian, RealNVP(2, (8,)))
    fit = fit_autoguide(gaussian, guide, GuideSettings(steps=300, particles=16), progress=False)
    assert fit.remaining is not None
    assert fit.remaining.distance < 0.2
