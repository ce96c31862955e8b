"""Figures of generated images: what is drawn where, by class, and beside the nearest training images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from picture_cases import colours, pictures, shown, small_pair

from flowvae import Condition, FlowvaeError
from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.figures.sample_plots import plot_neighbours, plot_samples


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 64, 64)], ids=str)
def test_test_images_stand_beside_means_and_draws_of_the_same_codes(shape: tuple[int, ...]) -> None:
    data = pictures(*shape, likelihood="binomial:255")
    model, _ = small_pair(data)
    test, means, draws = plot_samples(model, data, seed=3).axes
    with seeded(derive(3, "samples")):
        z = model.prior().sample((len(data.test),))
        mean, x = model.mean(z), model.decode(z).sample()
    for ax, images in ((test, data.test), (means, mean), (draws, x)):
        for column in (0, 2):
            np.testing.assert_array_equal(shown(ax, data, 0, column), colours(images[column], data))


@pytest.mark.parametrize(
    ("likelihood", "of", "panels"),
    [("bernoulli", None, 2), ("bernoulli", "both", 3), ("gaussian", None, 3), ("gaussian", "draws", 2)],
)
def test_bits_are_shown_by_their_probabilities(likelihood: str, of: str | None, panels: int) -> None:
    data = pictures(1, 8, 8, likelihood=likelihood)
    figure = plot_samples(small_pair(data).model, data, of=of)
    assert len(figure.axes) == panels
    if of is None and likelihood == "bernoulli":
        between = shown(figure.axes[1], data, 0, 0)
        assert ((between > 5) & (between < 250)).any()
        assert any("P(x = 1 | z)" in text.get_text() for text in figure.axes[1].texts)


def test_an_autoregressive_likelihood_is_drawn() -> None:
    data = pictures(1, 4, 4, likelihood="bernoulli")
    _, drawn = plot_samples(small_pair(replace(data, likelihood="pixelcnn")).model, data).axes
    assert set(np.unique(shown(drawn, data, 0, 0))) <= {0, 255}
    assert any("draws" in text.get_text() for text in drawn.texts)
    near = plot_neighbours(small_pair(replace(data, likelihood="pixelcnn")).model, data, count=2).axes[0]
    assert set(np.unique(shown(near, data, 0, 0))) <= {0, 255}


def test_an_unknown_kind_is_refused() -> None:
    data = pictures(1, 4, 4)
    model, _ = small_pair(data)
    for draw in (plot_samples, plot_neighbours):
        with pytest.raises(FlowvaeError, match="'mean'"):
            draw(model, data, of="mean")


@pytest.mark.parametrize("prior", [True, False])
def test_a_class_has_a_row_with_its_name(prior: bool) -> None:
    data = pictures(3, 8, 8, classes=("ant", "bee", "cow"))
    model, _ = small_pair(data, "maf" if prior else "normal", Condition(prior=prior))
    test, means, _ = plot_samples(model, data, seed=1).axes
    assert [text.get_text() for text in test.texts if text.get_text()][:3] == ["ant", "bee", "cow"]
    of_class = data.test[1::3]
    assert len(of_class) == 4
    for column in range(4):
        np.testing.assert_array_equal(shown(test, data, 1, column), colours(of_class[column], data))
    c = torch.eye(3).repeat_interleave(4, 0)
    with seeded(derive(1, "samples")):
        given = model.prior_given(c)
        z = given.sample() if given.batch_shape else given.sample(torch.Size((12,)))
    np.testing.assert_array_equal(shown(means, data, 2, 3), colours(model.mean(z, c)[11], data))


def test_many_classes_are_chosen_from_all() -> None:
    count = 25
    labels = {name: torch.arange(rows) % count for name, rows in (("train", 40), ("valid", 8), ("test", 12))}
    data = pictures(1, 8, 8, labels=labels, classes=tuple(f"class {number:02}" for number in range(count)))
    figure = plot_samples(small_pair(data, condition=Condition()).model, data)
    names = [text.get_text() for text in figure.axes[0].texts if text.get_text().startswith("class ")]
    assert len(names) == 10
    assert (names[0], names[-1]) == ("class 00", "class 24")
    last = shown(figure.axes[0], data, 9, 0)  # of which there is no test image
    assert (last == 255).all()
    assert any("10 of 25" in text.get_text() for text in figure.axes[0].texts)


def test_covariates_are_those_of_the_test_images() -> None:
    conditions = {
        name: torch.linspace(-2, 2, rows)[:, None] for name, rows in (("train", 40), ("valid", 8), ("test", 12))
    }
    data = replace(pictures(1, 8, 8), conditions=conditions)
    model, _ = small_pair(data, condition=Condition(on="covariates"))
    _, means, _ = plot_samples(model, data).axes
    with seeded(derive(0, "samples")):
        z = model.prior_given(conditions["test"]).sample()
    np.testing.assert_array_equal(shown(means, data, 0, 2), colours(model.mean(z, conditions["test"])[2], data))


def test_neighbours_of_more_images_than_there_are_conditions() -> None:
    data = pictures(3, 8, 8, classes=("ant", "bee", "cow"))
    data = replace(data, test=data.test[:2], labels={**(data.labels or {}), "test": torch.tensor([2, 0])})
    model, _ = small_pair(data, condition=Condition())
    axes = plot_neighbours(model, data, seed=1, count=3).axes[0]
    with seeded(derive(1, "samples")):
        c = torch.eye(3)[[2, 0, 2]]
        x = model.mean(model.prior_given(c).sample(), c)
    np.testing.assert_array_equal(shown(axes, data, 1, 0), colours(x[1], data))


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_generated_image_stands_beside_its_nearest_training_images(channels: int, features: bool) -> None:
    """Against all distances, computed here."""
    data = pictures(channels, 8, 8, rows=60)
    model, _ = small_pair(data)
    figure = plot_neighbours(
        model, data, seed=2, count=6, k=3, features=(lambda x: x.flatten(1)[:, :5] ** 2) if features else None
    )
    with seeded(derive(2, "samples")):
        x = model.mean(model.prior().sample((6,))).detach()
    (ax,) = figure.axes
    breaks = [1, 4, 4] if features else [1, 4, 4, 5]
    for number in range(6):
        row, left = (number, 0) if features else (number % 3, 4 * (number // 3))
        np.testing.assert_array_equal(shown(ax, data, row, left, breaks), colours(x[number], data))
        for group, part in enumerate((lambda y: y.flatten(1), lambda y: y.flatten(1)[:, :5] ** 2)[: 1 + features]):
            distance = (part(data.train).double() - part(x[number : number + 1]).double()).square().sum(1)
            for place, nearest in enumerate(distance.argsort()[:3]):
                found = shown(ax, data, row, left + 1 + 3 * group + place, breaks)
                np.testing.assert_array_equal(found, colours(data.train[nearest], data))


@pytest.mark.parametrize(("searched", "among"), [(None, "40"), (7, "first 7"), (1000, "40")])
def test_how_many_were_searched_is_said(searched: int | None, among: str) -> None:
    data = pictures(1, 8, 8)
    (ax,) = plot_neighbours(small_pair(data).model, data, searched=searched).axes
    assert any(f"{among} training" in text.get_text() for text in ax.texts)


@pytest.mark.parametrize("setting", ["k", "count", "searched"])
def test_numbers_below_one_are_refused(setting: str) -> None:
    data = pictures(1, 4, 4)
    with pytest.raises(FlowvaeError, match=f"{setting}.*0"):
        plot_neighbours(small_pair(data).model, data, **{setting: 0})  # type: ignore[arg-type]
