"""The choice between path gradients and those of Trace_ELBO, and path gradients as a program."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoGuideList, AutoIAFNormal, AutoLowRankMultivariateNormal, AutoNormal
from zuko.transforms import AutoregressiveTransform

from flowvae.core.errors import FlowvaeError, SlowDirectionWarning
from flowvae.evaluation import importance_sample
from flowvae.flows import IAF, CouplingNSF, Linear, RealNVP
from flowvae.guides import AutoFlow
from flowvae.inference import GuideSettings, fit_autoguide
from flowvae.inference.objectives.path_gradient import (
    CompiledPathTraceELBO,
    PathTraceELBO,
    has_cheap_path,
    path_cost,
)

MANY = 100


def model(latents: int = MANY) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(latents), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z.cumsum(-1) / latents**0.5, 0.5).to_event(1), obs=torch.ones(latents))


def few() -> None:
    model(10)


def ready(make: Any, of: Any = model) -> Any:
    pyro.clear_param_store()
    guide = make(of)
    guide()
    return guide


def listed(of: Any) -> AutoGuideList:
    parts = AutoGuideList(of)
    parts.append(AutoFlow(of, IAF()))
    return parts


@pytest.mark.parametrize(
    ("make", "of", "density", "cheap"),
    [
        (lambda m: AutoFlow(m, IAF()), model, 2 * (MANY + 1), False),
        (lambda m: AutoFlow(m, IAF()), few, 22, True),
        (lambda m: AutoFlow(m, CouplingNSF()), model, 4, True),
        (lambda m: AutoFlow(m, RealNVP()), model, 4, True),
        (lambda m: AutoFlow(m, Linear()), model, 1, True),
        (AutoNormal, model, 0, True),
        (AutoLowRankMultivariateNormal, model, 0, True),
        (lambda m: AutoIAFNormal(m, hidden_dim=[MANY]), model, MANY, False),
        (listed, model, 2 * (MANY + 1), False),
    ],
)
def test_path_gradients_are_chosen_by_their_passes(make: Any, of: Any, density: int, cheap: bool) -> None:
    guide = ready(make, of)
    assert path_cost(guide).density == density
    assert has_cheap_path(guide) == cheap
    pyro.clear_param_store()


@pytest.fixture
def inverted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of passes of the inversions of autoregressive transforms, one entry each."""
    passes: list[int] = []
    original = AutoregressiveTransform._inverse

    def counting(self: Any, y: Any) -> Any:
        passes.append(self.passes)
        return original(self, y)

    monkeypatch.setattr(AutoregressiveTransform, "_inverse", counting)
    return passes


@pytest.mark.parametrize("compile", ["none", "capture"])
def test_nothing_scores_an_iaf_at_a_value_that_it_did_not_draw(inverted: list[int], compile: str) -> None:  # noqa: A002
    guide = AutoFlow(model, IAF())
    fit = fit_autoguide(model, guide, GuideSettings(steps=3, particles=4, compile=compile), progress=False)
    assert not fit.path
    guide.median()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few draws
        importance_sample(model, guide, draws=50)
    assert inverted == []


def test_a_slow_choice_warns_with_both_numbers_of_passes(inverted: list[int]) -> None:
    settings = GuideSettings(steps=1, particles=2, units=0, path=True)
    with pytest.warns(SlowDirectionWarning, match=rf"path.*\b{2 * (MANY + 1)}\b.*\b2\b"):
        fit = fit_autoguide(model, AutoFlow(model, IAF()), settings, progress=False)
    assert fit.path
    assert inverted == [MANY, MANY]
    with pytest.raises(FlowvaeError, match=r"GuideSettings\.path = 3"):
        GuideSettings(path=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("flow", [IAF(), CouplingNSF()], ids=lambda flow: type(flow).__name__)
def test_a_program_of_path_gradients_gives_the_same_numbers(flow: Any) -> None:
    guide = ready(lambda m: AutoFlow(m, flow), few)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    settings = {"num_particles": 6, "vectorize_particles": True, "max_plate_nesting": 0}
    losses, gradients = [], []
    compiled = CompiledPathTraceELBO(**settings)
    for elbo in (PathTraceELBO(**settings), compiled, compiled, compiled):
        guide.zero_grad()
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it must not fall back
            losses.append(torch.tensor(elbo.loss_and_grads(few, guide)))
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in guide.parameters()]))
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        torch.testing.assert_close(loss, losses[0])
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-4, atol=1e-4)


def test_a_captured_fit_is_the_eager_one() -> None:
    losses = []
    for mode in ("none", "capture"):
        settings = GuideSettings(steps=8, particles=4, units=2, compile=mode)
        losses.append(fit_autoguide(few, AutoFlow(few, CouplingNSF(2, (8,))), settings, progress=False).losses)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-4)
    with pytest.raises(FlowvaeError, match=re.escape("GuideSettings.compile = 'fast'")):
        GuideSettings(compile="fast")


def network(inputs: int = 4, width: int = 14, data: int = 40) -> Any:
    """A small Bayesian neural network."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(data, inputs, generator=generator)
    y = x[:, 0].sin() + 0.1 * torch.randn(data, generator=generator)

    def regression() -> None:
        h = x
        for number, (fan_in, fan_out) in enumerate(((inputs, width), (width, 1))):
            prior = dist.Normal(torch.zeros(fan_in, fan_out), fan_in**-0.5).to_event(2)
            h = h.tanh() if number else h
            h = h @ pyro.sample(f"weight{number}", prior)
        pyro.sample("y", dist.Normal(h.squeeze(-1), 0.1).to_event(1), obs=y)

    return regression


def test_a_network_of_many_weights_is_fitted_with_a_diagonal_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowvae.guides.automatic.joint_flow.FULL", 50)
    regression = network()
    elbos = []
    for guide in (AutoFlow(regression, IAF()), AutoNormal(regression)):
        pyro.clear_param_store()
        fit = fit_autoguide(regression, guide, GuideSettings(steps=200, particles=4), progress=False)
        elbos.append(-fit.losses[-40:].mean().item())
    assert elbos[0] > elbos[1] + 10
    pyro.clear_param_store()
