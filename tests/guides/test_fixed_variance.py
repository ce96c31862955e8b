"""The guide of constant variance: its entropy and KL in closed form, and its place in an experiment."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from helpers import disturb
from pyro.infer import Trace_ELBO
from resume_cases import check_resumes, small

from flowvae import MAF, FixedVariance, FlowvaeError, load
from flowvae.cli.command import main
from flowvae.guides.local_parameters import local_parameters, push


@pytest.mark.usefixtures("float64")
def test_the_variance_is_the_setting_for_every_input() -> None:
    head = FixedVariance(0.3).build(4, 5)
    disturb(head, 1.0)
    e = torch.randn(6, 5)
    q = head(e)
    assert (q.batch_shape, q.event_shape) == ((6,), (4,))
    loc = e @ head.loc.weight.T + head.loc.bias
    expected = torch.distributions.MultivariateNormal(loc, 0.09 * torch.eye(4))
    z = torch.randn(6, 4)
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z))
    draws = q.sample((40_000,))
    torch.testing.assert_close(draws.mean(0), loc, rtol=0, atol=0.01)
    torch.testing.assert_close(draws.var(0), torch.full((6, 4), 0.09), rtol=0.05, atol=0)
    assert local_parameters(head, e).keys() == {"loc"}  # all that depends on a data point
    noise = torch.randn(3, 1, 4)
    torch.testing.assert_close(push(q, noise)[0], loc + 0.3 * noise)


@pytest.mark.usefixtures("float64")
def test_the_kl_from_the_standard_normal_is_the_closed_form() -> None:
    """Σ_j ½ (s² + μ_j² − 1 − log s²), on average over many draws."""
    s = 0.5
    pair = small(guide=FixedVariance(s)).build(small().data.load(0))
    x = small().data.load(0).train[:8].double()
    pair.model.double(), pair.guide.double()
    q = pair.guide.posterior(x)
    z = q.sample((100_000,))
    found = (q.log_prob(z) - pair.model.prior_given().log_prob(z)).mean(0)
    loc = pair.guide.head.loc(pair.guide.features(x))
    expected = 0.5 * (s**2 + loc.square() - 1 - math.log(s**2)).sum(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)


def test_its_parameters_learn_with_a_flow_prior() -> None:
    data = small().data.load(0)
    model, guide = small(prior=MAF(1, (8,)), guide=FixedVariance()).build(data)
    disturb(model, 0.05)
    Trace_ELBO().loss_and_grads(model, guide, data.train[:16])
    names = [name for name, _ in guide.head.named_parameters()]
    assert names == ["loc.weight", "loc.bias"]
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("condition", [False, True], ids=["plain", "conditional"])
def test_it_resumes_bit_for_bit(condition: bool, tmp_path: Path) -> None:
    check_resumes(small(condition, prior=MAF(1, (8,)), guide=FixedVariance(0.4)), tmp_path)


def test_by_name_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowvae.experiments.train.draw_figures", lambda *_, **__: [])
    quick = ["--inference.epochs", "2", "--inference.device", "cpu", "--draws", "5"]
    data = ["data:pinwheel", "--data.train", "200", "--data.valid", "50", "--data.test", "50", "--latent", "2"]
    out = str(tmp_path / "run")
    assert main(["train", "--out", out, "guide:fixed-variance", "--guide.scale", "0.25", *data, *quick]) == 0
    assert load(out).experiment.guide == FixedVariance(0.25)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), "wide"])
def test_a_scale_that_is_none_is_refused(scale: object) -> None:
    with pytest.raises(FlowvaeError, match=r"scale = .*above 0"):
        FixedVariance(scale)  # type: ignore[arg-type]
