"""The affine layer: against the dense Gaussian that it is, and linear in the number of latents where it is diagonal."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from flowvae.core import memory
from flowvae.core.errors import FlowvaeError
from flowvae.flows import IAF, CouplingNSF, RealNVP
from flowvae.guides import AutoFlow
from flowvae.guides.automatic.affine import AffineLayer


def many(latents: int) -> Any:
    """A model of independent latents."""

    def model() -> None:
        pyro.sample("z", dist.Normal(torch.zeros(latents), 1.0).to_event(1))

    return model


def layer(full: bool, features: int = 6) -> AffineLayer:
    """A layer away from its start."""
    torch.manual_seed(0)
    made = AffineLayer(features, full)
    made.restart(torch.randn(features), torch.randn(features, features).tril(-1) + torch.rand(features).diag_embed())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.usefixtures("float64")
def test_it_maps_as_location_and_scale_say(full: bool) -> None:
    made = layer(full)
    loc, scale = made.loc_and_scale()
    dense = scale if full else scale.diag_embed()
    assert scale.shape == ((6, 6) if full else (6,))
    assert torch.equal(dense, dense.tril())
    v = torch.randn(3, 4, 6)
    generate = made().inv
    z = generate(v)
    torch.testing.assert_close(z, loc + v @ dense.T)
    torch.testing.assert_close(made()(z), v)
    jacobian = torch.autograd.functional.jacobian(generate, v[0, 0])
    expected = torch.linalg.slogdet(jacobian)[1].expand(3, 4)
    torch.testing.assert_close(generate.log_abs_det_jacobian(v, z), expected)


@pytest.mark.parametrize("full", [True, False])
def test_it_restarts_at_a_gaussian(full: bool) -> None:
    made = layer(full)
    loc, tril = torch.arange(6.0), torch.eye(6) + 0.5 * torch.ones(6, 6).tril(-1)
    made.restart(loc, tril)
    found, scale = made.loc_and_scale()
    deviations = (tril @ tril.T).diagonal().sqrt()
    torch.testing.assert_close(found, loc)
    torch.testing.assert_close(scale, tril if full else deviations)
    made.restart(loc, deviations)
    torch.testing.assert_close(made.loc_and_scale()[1], deviations.diag_embed() if full else deviations)


def numbers(guide: AutoFlow) -> int:
    """Size of everything that a guide keeps."""
    tensors: list[Tensor] = [*guide.parameters(), *guide.buffers()]
    return sum(tensor.numel() for tensor in tensors)


@pytest.mark.parametrize("flow", [IAF(), CouplingNSF(), RealNVP()], ids=lambda flow: type(flow).__name__)
def test_many_latents_take_no_matrix_of_their_square(flow: Any) -> None:
    sizes = []
    for latents in (1200, 2400):
        guide = AutoFlow(many(latents), flow)
        guide()
        sizes.append(numbers(guide))
    assert sizes[1] < 2.05 * sizes[0]


def test_the_affine_layer_is_full_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowvae.guides.automatic.joint_flow.FULL", 10)
    dimensions = []
    for latents, affine in ((10, "auto"), (11, "auto"), (11, "full"), (10, "diagonal")):
        guide = AutoFlow(many(latents), IAF(), affine=affine)
        guide()
        dimensions.append(guide.affine_layer.loc_and_scale()[1].dim())
    assert dimensions == [2, 1, 2, 1]


def test_a_guide_that_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory", lambda: 1e9)
    for settings, value in (({"affine": "full"}, "10000"), ({"flow": IAF(2, (20_000,))}, "20000")):
        guide = AutoFlow(many(10_000), **{"flow": IAF(), **settings})
        with pytest.raises(FlowvaeError, match=f"{value}.* 1 GB"):
            guide()


def test_more_draws_for_quantiles_than_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    guide = AutoFlow(many(5000), IAF(), draws=10_000)
    guide()
    monkeypatch.setattr(memory, "memory", lambda: 5e8)
    with pytest.raises(FlowvaeError, match=r"10000.* 600 MB.* 500 MB"):
        guide.median()
