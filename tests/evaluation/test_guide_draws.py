"""Draws of any guide with their weights, and the figure made of them."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal

from flowvae.errors import FlowvaeError
from flowvae.evaluation import guide_draws, plot_funnel
from flowvae.flows import IAF, Linear
from flowvae.guides import AutoFlow


def hierarchy() -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("groups", 3):
        raw = pyro.sample("raw", dist.Normal(0.0, 1.0))
        theta = pyro.deterministic("theta", mu + tau * raw, event_dim=0)
        pyro.sample("y", dist.Normal(theta, 1.0), obs=torch.tensor([0.5, -1.0, 2.0]))


@pytest.mark.parametrize("make", [lambda m: AutoFlow(m, IAF(1, (4,))), AutoNormal], ids=["flow", "pyro"])
def test_weights_are_those_of_one_run_after_another(make: object) -> None:
    guide = make(hierarchy)  # type: ignore[operator]
    guide()
    drawn = guide_draws(hierarchy, guide, ("mu", "tau", "raw", "theta"), draws=1003, seed=4)
    assert {name: tuple(value.shape) for name, value in drawn.values.items()} == {
        "mu": (1003,),
        "tau": (1003,),
        "raw": (1003, 3),
        "theta": (1003, 3),
    }
    mu, tau, raw = (drawn.values[name] for name in ("mu", "tau", "raw"))
    torch.testing.assert_close(drawn.values["theta"], mu[:, None] + tau[:, None] * raw)
    pyro.clear_param_store()
    for n in (0, 1002):
        values = {name: drawn.values[name][n] for name in ("mu", "tau", "raw")}
        joint = poutine.trace(poutine.condition(hierarchy, data=values)).get_trace().log_prob_sum()
        if isinstance(guide, AutoFlow):
            free = torch.cat((values["mu"][None], values["tau"].log()[None], values["raw"]))
            density = guide.get_posterior().log_prob(free) - values["tau"].log()
            torch.testing.assert_close(drawn.log_weight[n], joint - density, rtol=1e-4, atol=1e-4)
    again = guide_draws(hierarchy, guide, ("mu",), draws=1003, seed=4)
    assert torch.equal(again.log_weight, drawn.log_weight)
    pyro.clear_param_store()


def test_with_the_exact_posterior_every_weight_is_the_evidence() -> None:
    def conjugate() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=torch.ones(2))

    guide = AutoFlow(conjugate, Linear())
    guide()
    guide.affine_layer.restart(torch.full((2,), 0.5), 0.5**0.5 * torch.eye(2))
    weight = guide_draws(conjugate, guide, ("z",), draws=10).log_weight
    evidence = dist.Normal(torch.zeros(2), 2**0.5).log_prob(torch.ones(2)).sum()
    torch.testing.assert_close(weight, evidence.expand(10))


def test_mistakes_are_named() -> None:
    guide = AutoFlow(hierarchy, Linear())
    with pytest.raises(FlowvaeError, match=r"site 'thete'.*did you mean theta"):
        guide_draws(hierarchy, guide, ("thete",))
    with pytest.raises(FlowvaeError, match="draws = 0"):
        guide_draws(hierarchy, guide, ("mu",), draws=0)
    with pytest.raises(FlowvaeError, match="no draws of 'tau'; it has mu"):
        plot_funnel({"mu": torch.ones(5)}, {"a": {"mu": torch.ones(5)}})
    with pytest.raises(FlowvaeError, match="no guide"):
        plot_funnel({"mu": torch.ones(5), "tau": torch.ones(5)}, {})


def test_the_figure_has_a_labelled_panel_a_guide() -> None:
    truth = {"mu": torch.randn(2, 400), "tau": torch.randn(2, 400).exp()}
    guides = {name: {"mu": torch.randn(300), "tau": torch.randn(300).exp()} for name in ("one", "two", "three", "four")}
    figure = plot_funnel(truth, guides)
    assert [ax.get_title() for ax in figure.axes] == list(guides)
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "mu", "mu", "mu"]
    assert figure.axes[0].get_ylabel() == "log tau"
