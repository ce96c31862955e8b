"""The figure of a funnel and the guides that follow it."""

from __future__ import annotations

import pytest
import torch

from flowvae.core.errors import FlowvaeError
from flowvae.evaluation import plot_funnel


def test_mistakes_are_named() -> None:
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
