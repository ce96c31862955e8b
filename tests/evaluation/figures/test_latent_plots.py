"""Figures of the latent space."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from latent_cases import Shifted, ppca, standard
from matplotlib.figure import Figure

from flowvae import FlowvaeError
from flowvae.evaluation.figures.latent_plots import plot_activity, plot_holes
from flowvae.evaluation.latent.activity import Activity


def labelled(figure: Figure) -> None:
    """Draws the figure, too: some mistakes show only then."""
    figure.savefig(BytesIO())
    for ax in figure.axes:
        assert ax.get_title() or ax.get_ylabel()


def test_marked_draws_lie_in_holes() -> None:
    """q̄ = N(0, 0.8² I) of one datum: its 5 % holes are outside of a circle of radius 0.8 sqrt(−2 log 0.05)."""
    figure = plot_holes(standard(2), Shifted(0.8), torch.zeros(1, 2))
    labelled(figure)
    marked = next(c for c in figure.axes[1].collections if c.get_label() == "in a hole")
    radii = np.linalg.norm(np.asarray(marked.get_offsets()), axis=1)
    assert radii.min() == pytest.approx(0.8 * np.sqrt(-2 * np.log(0.05)), rel=0.06)
    share = np.exp(-(radii.min() ** 2) / 2)
    assert len(radii) / 2000 == pytest.approx(share, abs=0.03)
    with pytest.raises(FlowvaeError, match="latent = 1"):
        plot_holes(standard(1), Shifted(0.8), torch.zeros(1, 1))


@pytest.mark.usefixtures("float64")
def test_holes_of_a_larger_latent_and_of_held_out_codes() -> None:
    _, guide, x = ppca(300, 0, (1.6, 0.6, 0.3))
    figure = plot_holes(standard(3), guide, x[:50], x[50:])
    labelled(figure)
    assert figure.axes[0].get_title() == "codes of held-out data: 5% in holes"
    assert "principal component 1" in figure.axes[0].get_xlabel()


@pytest.mark.parametrize("kl", [None, torch.rand(20, 4)])
def test_activity_is_sorted(kl: torch.Tensor | None) -> None:
    figure = plot_activity(Activity(torch.tensor([0.1, 0.0, 0.9, 0.4]), torch.full((4,), 0.01), kl, 100, 0.0, None))
    labelled(figure)
    assert len(figure.axes) == (1 if kl is None else 2)
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == ["2", "3", "0", "1"]
    assert figure.axes[0].get_title().startswith("3 of 4 units")
