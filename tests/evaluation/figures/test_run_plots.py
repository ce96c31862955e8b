"""Figures of a fitted VAE over data of any shape, with and without a condition and named classes."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from torch import Size, nn

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import Condition
from flowvae.data import Dataset
from flowvae.evaluation.figures.explorer_plots import Scene, draw_state
from flowvae.evaluation.figures.interpolation_plots import plot_paths, plot_traversals
from flowvae.evaluation.figures.run_plots import (
    draw_figures,
    plot_latent,
    plot_priors,
    plot_reconstructions,
    plot_samples,
)
from flowvae.flows import MAF
from flowvae.guides import AmortizedGuide, Gaussian
from flowvae.models import VAE, GaussianLikelihood
from flowvae.networks import MLP, Standardize

SHAPES = [(3,), (1, 4, 4), (3, 4, 4), (2, 5)]
NAMES = ["bee", "ant", "cow"]


def dataset(shape: tuple[int, ...], named: bool = True) -> Dataset:
    x = torch.rand(90, *shape, generator=torch.Generator().manual_seed(0))
    return Dataset(
        *x.split(30),
        likelihood=GaussianLikelihood(),
        name="noise",
        preprocessing="none",
        split="in order",
        labels={s: np.array(NAMES * 10) if named else torch.arange(30) % 3 for s in ("train", "valid", "test")},  # type: ignore[misc]
    )


def pair(data: Dataset, condition: Condition | None = None, latent: int = 2) -> tuple[VAE, AmortizedGuide]:
    def context(part: str) -> int:
        return 3 if condition is not None and getattr(condition, part) else 0

    units = data.likelihood.units(data.train)
    model = VAE(
        MAF(hidden_features=(4,)).build(latent, context("prior")),
        MLP((4,)).build(Size((latent,)), data.likelihood.parameter_shape(data.shape), context("decoder")),
        data.likelihood.build(data.shape, units),
        condition,
    )
    encoder = nn.Sequential(Standardize(*units), MLP((4,)).build(data.shape))
    return model, AmortizedGuide(encoder, Gaussian().build(latent, 4 + context("guide")), condition)


def drawn(figure: Figure) -> Figure:
    """Some mistakes show only when a figure is drawn."""
    figure.savefig(BytesIO())
    return figure


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_figure_is_drawn_for_every_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    data = dataset(shape)
    history = pd.DataFrame(
        {
            "epoch": [1, 2],
            "train_elbo": [-3.0, -2.0],
            "valid_elbo": [-3.0, -2.5],
            "kept": [False, True],
            "weight": [1, 1],
        }
    )
    paths = draw_figures(*pair(data), data, history, tmp_path)
    assert sorted(path.stem for path in paths) == ["history", "latent", "reconstructions", "samples"]
    assert all(path.stat().st_size > 1000 for path in paths)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_images_are_shown_and_other_data_plotted(shape: tuple[int, ...]) -> None:
    data = dataset(shape)
    model, guide = pair(data)
    images = len(shape) == 3
    for figure, count in ((plot_samples(model, data), 2), (plot_reconstructions(model, guide, data), 1)):
        assert len(drawn(figure).axes) == count
        for ax in figure.axes:
            assert len(ax.images) == images
            if images:
                assert ax.images[0].get_array().ndim == (3 if shape[0] == 3 else 2)
    if not images:
        for ways in (plot_paths, plot_traversals):
            with pytest.raises(FlowvaeError, match="images"):
                ways(model, guide, data)
        return
    for ways in (plot_paths, plot_traversals):
        assert sum(len(ax.images) for ax in drawn(ways(model, guide, data, 2)).axes) == 2


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_explorer_shows_the_decoded_data_point(shape: tuple[int, ...]) -> None:
    data = dataset(shape)
    scene = Scene(*pair(data), data)
    figure = draw_state(scene, torch.zeros(2))
    drawn(figure)  # type: ignore[arg-type]
    if len(shape) == 3:
        decoded, nearest = figure.axes[2:4]
        mean = scene.model.mean(scene.code(torch.zeros(2)))
        found = torch.as_tensor(np.asarray(decoded.images[0].get_array()) * data.train.max().item())
        expected = mean[0] if shape[0] == 1 else mean.permute(1, 2, 0)
        torch.testing.assert_close(found, expected.detach())
        row = int((data.test - mean).square().flatten(1).sum(1).argmin())
        assert nearest.get_title().endswith(f": {NAMES[row % 3]}")


@pytest.mark.parametrize("named", [True, False])
def test_the_legend_has_the_names_of_the_classes(named: bool) -> None:
    data = dataset((3,), named)
    _, right = plot_latent(*pair(data), data).axes
    assert right.get_legend() is not None
    texts = [text.get_text() for text in right.get_legend().get_texts()]
    if named:
        assert texts == ["ant", "bee", "cow"]
    else:
        assert len(texts) == 3


@pytest.mark.parametrize("prior", [True, False])
@pytest.mark.parametrize("shape", [(3,), (1, 4, 4)], ids=str)
def test_a_conditional_model_is_drawn_for_the_conditions_of_the_test_data(shape: tuple[int, ...], prior: bool) -> None:
    data = dataset(shape)
    condition = Condition(on="labels", prior=prior, encoder=False, guide=True, decoder=True)
    model, guide = pair(data, condition)
    for figure in (
        plot_samples(model, data),
        plot_reconstructions(model, guide, data),
        plot_latent(model, guide, data),
    ):
        drawn(figure)
    if prior:
        with pytest.raises(FlowvaeError, match="conditional"):
            plot_priors({"one": (model, guide)}, data)
    else:
        drawn(plot_priors({"one": (model, guide)}, data))
