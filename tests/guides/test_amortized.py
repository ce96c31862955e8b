"""Amortized guides: what reads the datum, how they start, and what they can reach where the posterior is known."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from helpers import disturb
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal, kl_divergence

from flowvae.core.errors import SlowDirectionWarning
from flowvae.core.registry import families
from flowvae.evaluation import measure_likelihoods
from flowvae.flows import IAF, Householder
from flowvae.guides import AmortizedGuide, FlowGuide, FullRank, Gaussian, GuideSpec
from flowvae.guides.local_parameters import push, sobol_normal
from flowvae.inference import log_joint
from flowvae.models import LinearGaussian

pytestmark = pytest.mark.usefixtures("float64")

FLOW_GUIDES = {
    name: family.default for name, family in families("guide").items() if isinstance(family.default, FlowGuide)
}
every_flow_guide = pytest.mark.parametrize(
    "spec",
    [
        pytest.param(replace(spec, conditioned=conditioned, base=base, context=16), id=f"{name}-{kind}-{base}")
        for name, spec in FLOW_GUIDES.items()
        for conditioned, kind in ((False, "static"), (True, "conditioned"))
        for base in ("gaussian", "full-rank")
    ],
)


def head_of(spec: GuideSpec, features: int = 3, context: int = 5) -> nn.Module:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", SlowDirectionWarning
        )  # a family in its slow direction is not what is tested here
        return spec.build(features, context)


@every_flow_guide
def test_a_flow_guide(spec: FlowGuide) -> None:
    """It starts as its base, every parameter gets a gradient, and its flow reads the datum if it is conditioned."""
    head = head_of(spec)
    c, u = torch.randn(4, 5), torch.randn(4, 3)
    base = head(c).base
    if spec.flow.starts_as_identity:
        with torch.no_grad():
            torch.testing.assert_close(head(c).transform.inv(u), u, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(head(c).log_prob(u), base.log_prob(u), rtol=1e-5, atol=1e-5)

    disturb(head, 0.1)
    z, log_q = head(c).rsample_and_log_prob((2,))
    (z.sin().sum() + log_q.sum()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name

    with torch.no_grad():
        # the transform itself, at the same u: the Gaussian underneath has no part in it
        one, other = head(c).transform.inv(u), head(c + 1).transform.inv(u)
    if spec.conditioned:
        assert (one - other).abs().amax(-1).min() > 1e-4
    else:
        assert torch.equal(one, other)


def oracle(rows: int = 20) -> tuple[LinearGaussian, Tensor]:
    torch.manual_seed(2)
    model = LinearGaussian(torch.randn(7, 3), torch.randn(7), scale=0.6)
    model.requires_grad_(False)
    return model, model(None, rows)


def minimize(head: nn.Module, loss: Callable[[], Tensor]) -> float:
    optim = torch.optim.LBFGS(
        head.parameters(), max_iter=300, tolerance_grad=1e-9, tolerance_change=1e-13, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optim.zero_grad()
        value = loss()
        value.backward()
        return value

    optim.step(closure)
    return loss().item()


def dense(q: Distribution) -> MultivariateNormal:
    """A Gaussian, or one that a linear flow has moved, with its full covariance."""
    if isinstance(q, MultivariateNormal):
        return q
    if hasattr(q, "base_dist"):
        return MultivariateNormal(q.base_dist.loc, scale_tril=torch.diag_embed(q.base_dist.scale))
    rotated = q.transform.inv(torch.eye(3))  # row i is where the flow takes e_i
    base = dense(q.base)
    return MultivariateNormal(base.loc @ rotated, rotated.T @ base.covariance_matrix @ rotated)


@pytest.mark.parametrize(
    ("spec", "reaches"),
    [
        (Gaussian(), "mean field"),
        (FullRank(), "evidence"),
        (FlowGuide(Householder(transforms=2), conditioned=False), "evidence"),
        (FlowGuide(Householder(transforms=4), conditioned=False), "evidence"),
        (FlowGuide(Householder(transforms=4), conditioned=False, base="full-rank"), "evidence"),
    ],
    ids=["gaussian", "full-rank", "householder-2", "householder-4", "householder-full-rank"],
)
def test_the_gap_of_a_gaussian_guide_in_closed_form(spec: GuideSpec, reaches: str) -> None:
    """The posterior's mean is linear in x and its covariance constant, so a linear encoder can do all that there is.

    No covariance of three dimensions is out of the reach of two reflections: they give every rotation.
    """
    model, x = oracle()
    head = head_of(spec, 3, 7)
    disturb(head, 0.05)
    exact = model.posterior(x)

    # KL(q || p(z | x)) is log p(x) minus the ELBO, without any draw
    gap = minimize(head, lambda: kl_divergence(dense(head(x)), exact).mean())
    best = model.mean_field_gap().item() if reaches == "mean field" else 0.0
    assert model.mean_field_gap() > 0.1
    assert gap == pytest.approx(best, abs=1e-6)
    # and no datum is served better than another
    torch.testing.assert_close(kl_divergence(dense(head(x)), exact), torch.full((20,), best), rtol=0, atol=1e-4)
    if reaches == "mean field":
        q, optimum = head(x).base_dist, model.mean_field(x).base_dist
        torch.testing.assert_close(q.loc, optimum.loc, rtol=0, atol=1e-3)
        torch.testing.assert_close(q.scale, optimum.scale.expand(20, 3), rtol=1e-3, atol=0)


def test_one_affine_autoregressive_layer_reaches_the_evidence() -> None:
    model, x = oracle(8)
    head = head_of(FlowGuide(IAF(transforms=1, hidden_features=(16,)), conditioned=False), 3, 7)
    noise = sobol_normal(128, 3, 0, x)

    def loss() -> Tensor:
        z, log_q = push(head(x), noise)
        return (log_q - log_joint(model, x, z)).mean()

    minimize(head, loss)
    result = measure_likelihoods(model, AmortizedGuide(nn.Identity(), head), x, draws=2000, seed=1)
    # a network of ReLUs is nearly linear; the mean of 16 000 log-weights is within 0.002
    gap = (model.log_evidence(x) - result.elbo).mean()
    assert -0.005 < gap < 0.02
    assert gap < 0.2 * model.mean_field_gap()
