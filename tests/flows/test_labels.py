"""What zuko's families are labelled with is what they do: where they saturate, and where they do not."""

from __future__ import annotations

import pytest
import torch
from helpers import disturb

from flowvae.core.errors import FlowvaeError
from flowvae.experiments.experiment import Experiment
from flowvae.flows import BPF, CNF, GF, IAF, MAF, NAF, NICE, NSF, SOSPF, UNAF, CouplingNSF, FlowSpec, RealNVP
from flowvae.flows.autoregressive.iaf import GatedTransform
from flowvae.guides import FlowGuide

BISECTED = [NAF(), UNAF(), SOSPF(), GF()]
PROPER = [MAF(), NSF(), CouplingNSF(), RealNVP(), NICE(), IAF(), BPF(), CNF()]


def name(flow: FlowSpec) -> str:
    return type(flow).__name__


@pytest.mark.parametrize("flow", BISECTED, ids=name)
def test_codes_beyond_ten_do_not_come_back(flow: FlowSpec) -> None:
    assert not flow.proper
    lazy = flow.transform(3)
    disturb(lazy, 0.05)
    z = torch.tensor([[15.0, -15.0, 15.0]])
    assert (lazy().inv(lazy()(z)) - z).abs().max() > 1


@pytest.mark.parametrize("flow", PROPER, ids=name)
def test_codes_beyond_ten_come_back(flow: FlowSpec) -> None:
    assert flow.proper
    lazy = flow.transform(3)
    disturb(lazy, 0.05)
    z = torch.tensor([[15.0, -15.0, 15.0]])
    torch.testing.assert_close(lazy().inv(lazy()(z)), z, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("flow", BISECTED, ids=name)
def test_a_guide_is_refused_with_the_reason(flow: FlowSpec) -> None:
    with pytest.raises(FlowvaeError, match=r"cannot be a posterior: its draws come from a bisection"):
        FlowGuide(flow)


@pytest.mark.parametrize("flow", BISECTED, ids=name)
def test_a_prior_warns_that_it_is_not_proper(flow: FlowSpec) -> None:
    with pytest.warns(UserWarning, match=f"{name(flow)} as a prior: .*not a normalized density"):
        Experiment(latent=3, prior=flow).build(Experiment().data.load(0))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("flow", [*BISECTED, BPF(), CNF()], ids=name)
def test_the_density_has_a_gradient_for_every_parameter(flow: FlowSpec, training: bool) -> None:
    lazy = flow.build(3, context=2).train(training)
    disturb(lazy, 0.05)
    lazy(torch.randn(4, 2)).log_prob(torch.randn(4, 3)).sum().backward()
    for key, parameter in lazy.named_parameters():
        if parameter.shape.numel() and isinstance(flow, GF) and "phi" in key:
            continue
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_draws_of_a_cnf_have_a_gradient_in_eval_mode_too(training: bool) -> None:
    lazy = CNF().build(3).train(training)
    disturb(lazy, 0.05)
    lazy().rsample((4,)).sum().backward()
    for key, parameter in lazy.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.usefixtures("float64")
def test_the_gated_update_is_that_of_kingma() -> None:
    u, m, s = torch.randn(3, 5)
    gate = torch.sigmoid(s + 2)
    transform = GatedTransform(m, s)
    torch.testing.assert_close(transform(u), gate * u + (1 - gate) * m)
    torch.testing.assert_close(transform.inv(transform(u)), u)
    torch.testing.assert_close(transform.log_abs_det_jacobian(u, transform(u)), gate.log())


def test_an_affine_front_brings_far_codes_into_the_box() -> None:
    """Codes of scale 20 are beyond the splines' box: without the front, maximum likelihood hardly moves."""
    torch.manual_seed(0)
    z = 20 * torch.randn(512, 2) + torch.tensor([30.0, -30.0])
    losses = []
    for flow in (NSF(affine=True), NSF(affine=False)):
        lazy = flow.build(2)
        optim = torch.optim.Adam(lazy.parameters(), lr=0.03)
        for _ in range(800):
            optim.zero_grad()
            loss = -lazy().log_prob(z).mean()
            loss.backward()
            optim.step()
        losses.append(loss.item())
    entropy = torch.distributions.Normal(0.0, 20.0).entropy().item() * 2
    assert losses[0] < entropy + 5
    assert losses[1] > entropy + 1000
