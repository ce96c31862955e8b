"""Networks are widened until the counts of parameters agree; what cannot be widened is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from torch import Size, nn

from flowvae import MAF, CouplingNSF, FlowvaeError
from flowvae.comparisons.engine.parameter_matching import (
    count_parameters,
    hidden_widths,
    scaled,
    widen_decoder,
    widen_encoder,
)
from flowvae.core.parts import NetworkSpec
from flowvae.data import Dataset
from flowvae.experiments.experiment import Experiment
from flowvae.models import FlowDecoder
from flowvae.networks import MLP


@dataclass(frozen=True)
class Straight(NetworkSpec):
    """A linear map: a network without hidden layers."""

    def build(self, inputs: Size, outputs: Size | None = None, context: int = 0) -> nn.Module:
        return nn.Linear(inputs.numel(), (outputs or inputs).numel())


@pytest.mark.parametrize("widen", [widen_encoder, widen_decoder])
def test_a_wider_network_makes_up_for_a_flow(widen: object, coins: Experiment, coin_data: Dataset) -> None:
    wanted = count_parameters(replace(coins, prior=MAF(2, (16,))), coin_data)
    assert count_parameters(coins, coin_data) < 0.95 * wanted
    found = widen(coins, coin_data, wanted)  # type: ignore[operator]
    assert count_parameters(found, coin_data) == pytest.approx(wanted, rel=0.01)
    part = "encoder" if widen is widen_encoder else "decoder"
    assert replace(found, **{part: getattr(coins, part)}) == coins


def test_counts_are_those_of_the_trained_modules(coins: Experiment, coin_data: Dataset) -> None:
    """5 columns, 32 hidden units, latent 2: the encoder, a Gaussian head and the decoder."""
    assert count_parameters(coins, coin_data) == (5 * 32 + 32) + 2 * (32 * 2 + 2) + (2 * 32 + 32) + (32 * 5 + 5)


def test_the_network_behind_a_flow_is_the_one_that_is_scaled() -> None:
    decoder = FlowDecoder(CouplingNSF(2, (10,)), MLP((8, 4)))
    assert hidden_widths(decoder) == (8, 4)
    assert scaled(decoder, 2) == FlowDecoder(CouplingNSF(2, (10,)), MLP((16, 8)))  # type: ignore[type-var]


def test_a_network_without_hidden_layers_is_refused(coins: Experiment, coin_data: Dataset) -> None:
    assert hidden_widths(Straight()) == ()
    with pytest.raises(FlowvaeError, match=r"Straight\(\).*hidden_features"):
        scaled(Straight(), 2)


def test_what_no_width_can_match_is_refused(coins: Experiment, coin_data: Dataset) -> None:
    with pytest.raises(FlowvaeError, match="1000000 parameters"):
        widen_encoder(coins, coin_data, 1_000_000)
