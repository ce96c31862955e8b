"""The figure of paths between codes: ends, both kinds of path, conditions."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from picture_cases import colours, pictures, shown, small_pair

from flowvae import Condition, FlowvaeError
from flowvae.evaluation.figures.inputs import pairs_of
from flowvae.evaluation.figures.interpolation_plots import paths_between, plot_interpolation
from flowvae.evaluation.latent.base_space import from_base, to_base


def codes(*shape: int) -> list[torch.Tensor]:
    return list(torch.randn(2, *shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("conditional", [False, True])
def test_paths_begin_and_end_exactly_at_the_codes(conditional: bool) -> None:
    data = pictures(1, 4, 4)
    model, _ = small_pair(data, condition=Condition() if conditional else None)
    c = torch.eye(3)[[0, 2, 2, 1]] if conditional else None
    start, end = codes(4, 3)
    with torch.no_grad():
        paths = paths_between(model, [start, end], [c, c], 5)
    assert set(paths) == {"straight", "base"}
    for z, given in paths.values():
        way = z.unflatten(0, (4, 5))
        assert torch.equal(way[:, 0], start)
        assert torch.equal(way[:, -1], end)
        assert given is None or torch.equal(given, torch.eye(3)[[0, 2, 2, 1]].repeat_interleave(5, 0))
    middle = paths["straight"][0].unflatten(0, (4, 5))[:, 2]
    torch.testing.assert_close(middle, (start + end) / 2)
    prior = model.prior_given(c)
    with torch.no_grad():
        expected = from_base(prior, (to_base(prior, start) + to_base(prior, end)) / 2)
    torch.testing.assert_close(paths["base"][0].unflatten(0, (4, 5))[:, 2], expected)


@pytest.mark.parametrize(("prior", "kinds"), [("maf", 2), ("normal", 1), ("mixture", 1)])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)], ids=str)
def test_rows_lead_from_one_image_to_the_other(shape: tuple[int, ...], prior: str, kinds: int) -> None:
    data = pictures(*shape)
    model, guide = small_pair(data, prior)
    figure = plot_interpolation(model, guide, data, seed=4, pairs=2, steps=3)
    figure.savefig(BytesIO())
    (first, last), ax = pairs_of(data, 2, model, 4), figure.axes[0]
    where = {"breaks": [1, 4], "row_breaks": [kinds]}
    for pair in range(2):
        row = kinds * pair
        np.testing.assert_array_equal(shown(ax, data, row, 0, **where), colours(first.args[0][pair], data))
        np.testing.assert_array_equal(shown(ax, data, row, 4, **where), colours(last.args[0][pair], data))
        for column in (1, 3):  # both paths have the same ends
            ends = [shown(ax, data, row + kind, column, **where) for kind in range(kinds)]
            np.testing.assert_array_equal(ends[0], ends[-1])
        assert len(ax.child_axes[pair].lines) == kinds


def test_densities_are_those_of_the_prior() -> None:
    data = pictures(1, 8, 8)
    model, guide = small_pair(data)
    ax = plot_interpolation(model, guide, data, pairs=1).axes[0]
    straight, base = (line.get_ydata() for line in ax.child_axes[0].lines)
    np.testing.assert_allclose(np.asarray(straight)[[0, -1]], np.asarray(base)[[0, -1]])
    assert np.isfinite(straight).all()


def test_a_prior_without_a_density_has_paths_alone() -> None:
    data = pictures(1, 8, 8)
    ax = plot_interpolation(*small_pair(data, "latent-variable"), data, pairs=2).axes[0]
    assert not ax.child_axes


def test_pairs_of_labels() -> None:
    data = pictures(1, 4, 4)
    labels = data.labels["test"]  # type: ignore[index]

    def labels_of(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([labels[(data.test == row).flatten(1).all(1)][0] for row in x])

    first, last = pairs_of(data, 3, small_pair(data).model, 0)
    assert (labels_of(first.args[0]) != labels_of(last.args[0])).all()
    first, last = pairs_of(data, 3, small_pair(data, condition=Condition()).model, 0)
    assert (labels_of(first.args[0]) == labels_of(last.args[0])).all()
    assert torch.equal(first.args[1], last.args[1])
    assert len(labels_of(first.args[0]).unique()) > 1


def test_covariates_change_along_the_path() -> None:
    conditions = {name: torch.rand(rows, 2) for name, rows in (("train", 40), ("valid", 8), ("test", 12))}
    data = replace(pictures(1, 4, 4), conditions=conditions)
    model, guide = small_pair(data, condition=Condition(on="covariates"))
    a, b = codes(2, 2)
    with torch.no_grad():
        _, c = paths_between(model, codes(2, 3), [a, b], 3)["base"]
    assert c is not None
    torch.testing.assert_close(c.unflatten(0, (2, 3))[:, 1], (a + b) / 2)
    plot_interpolation(model, guide, data, pairs=2, steps=3).savefig(BytesIO())


def test_a_path_needs_two_images() -> None:
    data = pictures(1, 4, 4)
    one = replace(data, test=data.test[:1], labels=None)
    with pytest.raises(FlowvaeError, match="1 data point of test"):
        plot_interpolation(*small_pair(data), one)
    two = replace(data, test=data.test[:2], labels={"test": torch.zeros(2)})  # of one label
    assert plot_interpolation(*small_pair(data), two).axes


@pytest.mark.parametrize(("shape", "axes"), [((1, 1, 9), 0), ((1, 9, 1), 2)], ids=["row", "column"])
def test_densities_are_left_out_beside_images_of_one_row(shape: tuple[int, ...], axes: int) -> None:
    data = pictures(*shape)
    figure = plot_interpolation(*small_pair(data, "normal"), data, pairs=2)
    figure.savefig(BytesIO())
    assert len(figure.axes[0].child_axes) == axes
