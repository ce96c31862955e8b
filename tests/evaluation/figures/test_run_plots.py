"""Figures of a fitted VAE over data of any shape, with and without a condition and named classes."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from picture_cases import WatchedSource
from torch import Size, nn

from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import Condition
from flowvae.data import Dataset
from flowvae.evaluation.figures.explorer_plots import Scene, draw_state
from flowvae.evaluation.figures.images import as_rgb, value_range
from flowvae.evaluation.figures.prior_plots import plot_latent, plot_priors
from flowvae.evaluation.figures.reconstruction_plots import plot_reconstructions
from flowvae.evaluation.figures.run_plots import FIGURES, OF_IMAGES, draw_figure, draw_figures, plot_history
from flowvae.evaluation.figures.sample_plots import plot_samples
from flowvae.flows import MAF
from flowvae.guides import AmortizedGuide, Gaussian
from flowvae.models import VAE, GaussianLikelihood, LatentVariablePrior
from flowvae.networks import MLP, Reference, Standardize

SHAPES = [(3,), (1, 4, 4), (3, 4, 4), (2, 5)]
NAMES = ["bee", "ant", "cow"]
HISTORY = pd.DataFrame(
    {"epoch": [1, 2], "train_elbo": [-3.0, -2.0], "valid_elbo": [-3.0, -2.5], "kept": [False, True], "weight": [1, 1]}
)


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
    paths = draw_figures(*pair(data), data, HISTORY, tmp_path)
    images = len(shape) == 3
    assert [path.stem for path in paths] == [name for name in FIGURES if images or name not in OF_IMAGES]
    assert all(path.stat().st_size > 1000 for path in paths)
    documented = draw_figures.__doc__ or ""
    assert all(f"`{path.name}`" in documented for path in paths)


@pytest.mark.parametrize("direction", ["bottom-up", "top-down"])
def test_a_prior_whose_density_is_an_integral_has_all_figures_but_no_contours(direction: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = dataset((3,))
    model, guide = pair(data)
    model.prior = LatentVariablePrior(1, direction=direction).build(2)
    guide.prior = Reference(model.prior)
    assert (tmp_path / "latent.png") in draw_figures(model, guide, data, HISTORY, tmp_path)
    assert "contours" not in plot_latent(model, guide, data).axes[0].get_title()
    model, guide = pair(data)
    assert "contours" in plot_latent(model, guide, data).axes[0].get_title()


def test_few_data_of_a_source_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same figures as of data in memory, from a block of the training data at a time."""
    monkeypatch.setattr("flowvae.evaluation.samples.neighbours.VALUES", 16 * 20)
    x = torch.rand(1000, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    data = Dataset(x, x[:9], x[:60], GaussianLikelihood(), "noise", "none", "in order")
    sources = {name: WatchedSource(getattr(data, name)) for name in ("train", "valid", "test")}
    watched = Dataset(**sources, likelihood=GaussianLikelihood(), name="noise", preprocessing="none", split="in order")  # type: ignore[arg-type]
    model, guide = pair(data)
    monkeypatch.setattr("flowvae.evaluation.figures.images.VALUES", 16 * 50)
    for source in sources.values():
        source.most = source.all = 0
    for name in ("samples", "reconstructions", *OF_IMAGES):
        settings = {"searched": 300} if name == "neighbours" else {}
        parts = {"model": lambda: model, "guide": lambda: guide, "data": lambda: watched, "seed": lambda: 0}
        own = draw_figure(name, parts, **settings)
        same = draw_figure(name, parts | {"data": lambda: data}, **settings)
        for one, other in zip(own.axes, same.axes, strict=True):
            np.testing.assert_array_equal(one.images[0].get_array(), other.images[0].get_array())
    assert sources["train"].most == 60  # images beside 12 generated ones
    assert sources["train"].all == 300 + 60 + 5 * 50  # the last for the range of values of each figure


def test_one_test_image_has_no_path(tmp_path: Path) -> None:
    data = dataset((1, 4, 4))
    one = replace(data, test=data.test[:1], labels=None)
    paths = draw_figures(*pair(data), one, HISTORY, tmp_path)
    assert {path.stem for path in paths} == set(FIGURES) - {"interpolation"}


def test_a_figure_is_asked_for_by_its_name() -> None:
    data = dataset((1, 4, 4))
    model, guide = pair(data)
    parts = {"model": lambda: model, "guide": lambda: guide, "data": lambda: data, "seed": lambda: 3}
    asked = draw_figure("samples", parts, of="draws")
    itself = plot_samples(model, data, 3, of="draws")
    for one, other in zip(asked.axes, itself.axes, strict=True):
        np.testing.assert_array_equal(one.images[0].get_array(), other.images[0].get_array())
    other_seed = draw_figure("samples", parts, of="draws", seed=4)
    assert (other_seed.axes[1].images[0].get_array() != asked.axes[1].images[0].get_array()).any()
    with pytest.raises(FlowvaeError, match=r"sample.*samples"):
        draw_figure("sample", parts)
    with pytest.raises(FlowvaeError, match=r"step.*steps"):
        draw_figure("interpolation", parts, step=3)
    with pytest.raises(FlowvaeError, match="model"):
        draw_figure("samples", parts, model=model)


@pytest.mark.parametrize("name", OF_IMAGES)
@pytest.mark.parametrize("shape", [(3,), (2, 5)], ids=str)
def test_figures_of_images_refuse_other_data(name: str, shape: tuple[int, ...]) -> None:
    data = dataset(shape)
    model, guide = pair(data)
    parts = {"model": lambda: model, "guide": lambda: guide, "data": lambda: data, "seed": lambda: 0}
    with pytest.raises(FlowvaeError) as refused:
        draw_figure(name, parts)
    assert str(shape) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_images_are_shown_and_other_data_plotted(shape: tuple[int, ...]) -> None:
    data = dataset(shape)
    model, guide = pair(data)
    images = len(shape) == 3
    for figure, count in ((plot_samples(model, data), 2 + images), (plot_reconstructions(model, guide, data), 1)):
        assert len(drawn(figure).axes) == count
        for ax in figure.axes:
            assert len(ax.images) == images


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_explorer_shows_the_decoded_data_point(shape: tuple[int, ...]) -> None:
    data = dataset(shape)
    scene = Scene(*pair(data), data)
    figure = draw_state(scene, torch.zeros(2))
    drawn(figure)  # type: ignore[arg-type]
    if len(shape) == 3:
        decoded, nearest = figure.axes[2:4]
        mean = scene.model.mean(scene.code(torch.zeros(2)))
        expected = as_rgb(mean.detach(), value_range(data))
        np.testing.assert_array_equal(decoded.images[0].get_array(), expected)
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


def test_epochs_without_a_finite_validation_do_not_set_the_limits_of_the_history() -> None:
    history = pd.DataFrame(
        {
            "epoch": [0, 1, 2],
            "train_elbo": [-3.0, -2.5, -2.0],
            "valid_elbo": [-np.inf, -2.8, -np.inf],
            "weight": [1.0, 1.0, 1.0],
            "kept": [False, True, False],
        }
    )
    assert "importance" in plot_history(history, "importance-weighted bound").axes[0].get_ylabel()
    low, high = plot_history(history).axes[0].get_ylim()
    assert -3.5 < low < -2.9
    assert high == pytest.approx(-2.0, abs=0.2)
