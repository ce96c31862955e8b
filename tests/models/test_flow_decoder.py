"""A flow in the decoder is the same model as a flow prior, with the guide mapped through the flow's inverse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyro
import pytest
import torch
from helpers import disturb
from pyro import poutine
from torch import Size, Tensor, nn
from zuko.distributions import NormalizingFlow

from flowvae import (
    IAF,
    MAF,
    CouplingNSF,
    Experiment,
    FlowvaeError,
    Gaussian,
    RealNVP,
    SlowDirectionWarning,
)
from flowvae.core.parts import NetworkSpec
from flowvae.core.registry import find
from flowvae.flows import GF, FlowSpec, Inverse, to_pyro
from flowvae.models import FlowDecoder
from flowvae.networks import MLP, Conv, Wrap, check_network, input_shape

G = MLP((8,))


def elbo(model: nn.Module, guide: Callable[[Tensor], Tensor], x: Tensor, value: Tensor) -> Tensor:
    """Log p(x, z) − log q(z | x) at given codes, in nats, shape (N,), as Pyro's traces have them."""
    drawn = poutine.trace(poutine.condition(guide, data={"z": value})).get_trace(x)
    scored = poutine.trace(poutine.condition(model, data={"z": value})).get_trace(x)
    drawn.compute_log_prob()
    scored.compute_log_prob()
    return scored.nodes["z"]["log_prob"] + scored.nodes["x"]["log_prob"] - drawn.nodes["z"]["log_prob"]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("flow", [CouplingNSF(2, (8,)), RealNVP(2, (8,)), IAF(1, (8,)), MAF(1, (8,))])
@pytest.mark.filterwarnings("ignore::flowvae.core.errors.SlowDirectionWarning")
def test_identity_of_chen_et_al_sample_by_sample(flow: FlowSpec) -> None:
    data = Experiment().data.load(0)
    prior = Experiment(latent=3, encoder=G, decoder=G, prior=flow)
    inside = replace(prior, prior=Experiment().prior, decoder=FlowDecoder(flow, G))
    (left, guide), (right, _) = prior.build(data), inside.build(data)
    for part in (left, guide):
        disturb(part, 0.3)
    right.decoder.network.load_state_dict(left.decoder.state_dict())
    right.decoder.transform.load_state_dict(left.prior.transform.state_dict())
    x = data.train[:7].double()

    def turned(x: Tensor) -> Tensor:
        """u = T⁻¹z for z ~ q(z | x): T⁻¹ is the transform's call, the normalizing direction."""
        pushed = NormalizingFlow(right.decoder.transform().inv, guide.posterior(x))
        with pyro.plate("data", len(x)):
            return pyro.sample("z", to_pyro(pushed))

    torch.manual_seed(5)
    z = guide.posterior(x).sample()
    u = left.prior.transform()(z)
    assert (z - u).abs().min() > 1e-4  # the flow does something
    one, other = elbo(left, guide, x, z), elbo(right, turned, x, u)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-8)
    ours = [*left.decoder.parameters(), *left.prior.parameters()]
    theirs = [*right.decoder.network.parameters(), *right.decoder.transform.parameters()]
    # gradients with z held on the one side, and u = T⁻¹z on the other: u moves with T
    for a, b in zip(
        torch.autograd.grad(elbo(left, guide, x, z).sum(), ours),
        torch.autograd.grad(elbo(right, turned, x, right.decoder.transform()(z)).sum(), theirs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


def test_it_starts_as_the_decoder_without_the_flow() -> None:
    data = Experiment().data.load(0)
    plain = Experiment(latent=3, decoder=G)
    inside = replace(plain, decoder=FlowDecoder(CouplingNSF(), G))
    u = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(inside.build(data).model.decoder(u), plain.build(data).model.decoder(u))
    extra = sum(p.numel() for p in CouplingNSF().build(3).parameters())
    counts = [sum(p.numel() for p in e.build(data).model.parameters()) for e in (plain, inside)]
    assert counts[1] - counts[0] == extra


@pytest.mark.parametrize("network", [MLP((8,)), Conv((4,))], ids=["mlp", "conv"])
@pytest.mark.parametrize("inputs", [Size((4,)), Size((1, 2, 2))], ids=str)
@pytest.mark.parametrize("context", [0, 3])
def test_it_is_the_network_after_the_flow(network: NetworkSpec, inputs: Size, context: int) -> None:
    flow, outputs = RealNVP(2, (8,)), Size((1, 5, 6))
    decoder = FlowDecoder(flow, network).build(inputs, outputs, context)
    disturb(decoder, 0.3)
    assert check_network("decoder", decoder, inputs, outputs, context) == outputs
    assert input_shape(decoder) == inputs
    u, c = torch.randn(7, *inputs), [torch.randn(7, context)] if context else []
    z = decoder.transform().inv(u.reshape(7, 4))
    assert (z - u.reshape(7, 4)).abs().min() > 1e-4
    torch.testing.assert_close(decoder(u, *c), decoder.network(z.reshape(u.shape), *c))
    decoder(u, *c).square().sum().backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_the_network_is_drawn_before_the_flow() -> None:
    torch.manual_seed(0)
    alone = G.build(Size((3,)), Size((5,)))
    torch.manual_seed(0)
    decoder = FlowDecoder(RealNVP(1, (8,)), G).build(Size((3,)), Size((5,)))
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), decoder.network.parameters(), strict=True))


def test_it_is_registered_and_takes_a_module() -> None:
    assert find("network", "flow-decoder").default == FlowDecoder(CouplingNSF(), MLP())
    module = nn.Linear(3, 5)
    assert FlowDecoder(RealNVP(), module) == FlowDecoder(RealNVP(), Wrap(module))  # type: ignore[arg-type]
    assert FlowDecoder(RealNVP(), module).build(Size((3,)), Size((5,))).network is module  # type: ignore[arg-type]


def test_it_is_stored_in_yaml(tmp_path: Path) -> None:
    for decoder in (FlowDecoder(), FlowDecoder(RealNVP(1, (8,)), G), FlowDecoder(Inverse(MAF(1, (8,))), Conv((4,)))):
        experiment = Experiment(latent=2, decoder=decoder)
        experiment.to_yaml(tmp_path / "e.yaml")
        assert Experiment.from_yaml(tmp_path / "e.yaml") == experiment


def test_what_cannot_be_in_a_decoder_is_refused() -> None:
    with pytest.raises(FlowvaeError, match="cannot be in a decoder"):
        FlowDecoder(GF())
    with pytest.raises(FlowvaeError, match=r"FlowDecoder\.flow"):
        FlowDecoder(Gaussian())  # type: ignore[arg-type]
    with pytest.raises(FlowvaeError, match=r"FlowDecoder\.network = 3"):
        FlowDecoder(RealNVP(), 3)  # type: ignore[arg-type]
    with pytest.raises(FlowvaeError, match=r"FlowDecoder\.network = .*MLP\("):
        FlowDecoder(RealNVP(), MLP)  # type: ignore[arg-type]
    with pytest.raises(FlowvaeError, match="did you mean realnvp"):
        Experiment.from_dict({"decoder": {"family": "flow-decoder", "flow": "realnpv"}})
    with pytest.warns(SlowDirectionWarning, match=r"MAF in a decoder: a draw costs 16 .* latent 8; inverted"):
        FlowDecoder(MAF()).build(Size((8,)), Size((4,)))
