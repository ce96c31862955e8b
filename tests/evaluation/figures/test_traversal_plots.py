"""The figure of traversals: one coordinate changes, the most active units come first."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
from picture_cases import colours, pictures, shown, small_pair
from scipy import stats
from torch import Tensor, nn

from flowvae import Condition, FlowvaeError
from flowvae.core.seeds import derive, seeded
from flowvae.evaluation.figures.traversal_plots import plot_traversal, traversal
from flowvae.evaluation.latent.activity import measure_activity
from flowvae.evaluation.latent.base_space import from_base, to_base


def test_only_the_named_coordinate_changes() -> None:
    code = torch.tensor([1.0, 2.0, 3.0, 4.0])
    values = torch.tensor([[-5.0, 0.0, 5.0], [-7.0, 0.5, 7.0]])
    codes = traversal(code, torch.tensor([2, 0]), values)
    assert codes.shape == (2, 3, 4)
    assert torch.equal(codes[0, :, 2], values[0])
    assert torch.equal(codes[1, :, 0], values[1])
    assert torch.equal(codes[0, :, [0, 1, 3]], code[[0, 1, 3]].expand(3, -1))
    assert torch.equal(codes[1, :, 1:], code[1:].expand(3, -1))


class Decoder(nn.Module):
    """Shows coordinate j of a code as the brightness of pixel j, so that codes can be read off images."""

    def forward(self, z: Tensor) -> Tensor:
        return nn.functional.pad(z, (0, 16 - z.shape[-1])).unflatten(-1, (1, 4, 4)) / 4


@pytest.mark.parametrize("around", ["image", "prior"])
@pytest.mark.parametrize("space", ["latent", "base"])
def test_values_are_quantiles_of_the_prior(space: str, around: str) -> None:
    """Of N(0, 1): in both spaces −3 to 3, and the code of the image, or 0, elsewhere."""
    data = pictures(1, 4, 4, likelihood="gaussian")
    model, guide = small_pair(data, "normal", latent=5)
    model.decoder = Decoder()
    figure = plot_traversal(model, guide, data, seed=1, steps=5, space=space, around=around, units=5)
    with seeded(derive(1, "codes")):
        z = guide.posterior(data.test).sample(torch.Size((16,)))[0, 0]
    centre = z if around == "image" else torch.zeros(5)
    ax = figure.axes[0]
    units = [int(text.get_text()[4:-2]) for text in ax.texts if text.get_text().startswith("$")]
    assert sorted(units) == list(range(5))
    for row, unit in enumerate(units):
        for column, value in enumerate((-3.0, -1.5, 0.0, 1.5, 3.0)):
            expected = centre.clone()
            expected[unit] = value
            near = colours(model.mean(expected), data).astype(int)
            # quantiles of draws in latent space
            atol = 0 if (space, around) == ("base", "image") else 12
            np.testing.assert_allclose(shown(ax, data, row, column).astype(int), near, atol=atol)


def test_ranks_stand_above_the_columns() -> None:
    data = pictures(1, 8, 8)
    (ax,) = plot_traversal(*small_pair(data), data, steps=3).axes
    heads = [text.get_text() for text in ax.texts if text.get_text().endswith("%")]
    assert heads == [f"{100 * stats.norm.cdf(-3):.1f} %", "50 %", f"{100 * stats.norm.cdf(3):.1f} %"]


def test_the_most_active_units_come_first() -> None:
    """A guide that reads the brightness of a pixel into each unit, more strongly for a later one."""
    data = pictures(1, 4, 4, rows=60)
    model, guide = small_pair(data, "normal", latent=4)

    class Head(nn.Module):
        def forward(self, x: Tensor) -> object:
            mean = x.flatten(1)[:, :4] * torch.tensor([0.0, 3.0, 1.0, 9.0])
            return torch.distributions.Independent(torch.distributions.Normal(mean, torch.ones(4)), 1)

    guide.posterior = Head().forward  # type: ignore[method-assign, assignment]
    (ax,) = plot_traversal(model, guide, data).axes
    texts = [text.get_text() for text in ax.texts]
    assert [text for text in texts if text.startswith("$")] == ["$z_{3}$", "$z_{1}$", "$z_{2}$", "$z_{0}$"]
    notes = [float(text) for text in texts if text.replace(".", "").isdigit()]
    expected = measure_activity(model, guide, data.test, draws=2000).share[[3, 1, 2, 0]].clamp_min(0)
    np.testing.assert_allclose(notes, expected, atol=0.25)


@pytest.mark.parametrize("latent", [1, 3, (2, 2, 2)], ids=str)
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("space", ["latent", "base"])
def test_every_model_is_traversed(space: str, conditional: bool, latent: int | tuple[int, ...]) -> None:
    data = pictures(3, 8, 8)
    flow = latent != 1  # a MAF needs two dimensions
    condition = Condition(prior=flow) if conditional else None
    pair = small_pair(data, "maf" if flow else "normal", condition, latent)
    figure = plot_traversal(*pair, data, units=2, steps=3, space=space)
    figure.savefig(BytesIO())
    assert len(figure.axes) == 1


def test_a_base_point_is_mapped_by_the_flow_of_its_condition() -> None:
    data = pictures(1, 4, 4)
    model, guide = small_pair(data, condition=Condition())
    (ax,) = plot_traversal(model, guide, data, units=1, steps=3, space="base").axes
    c = torch.eye(3)[:1]  # of the first test image
    with torch.no_grad(), seeded(derive(0, "codes")):
        z = guide.posterior(data.test, torch.eye(3)[torch.arange(12) % 3]).sample(torch.Size((16,)))[0, :1]
        u = to_base(model.prior_given(c), z)
        unit = int(next(text.get_text() for text in ax.texts if text.get_text().startswith("$"))[4:-2])
        u[0, unit] = 3.0
        expected = model.mean(from_base(model.prior_given(c), u), c)[0]
    found = shown(ax, data, 0, 2).astype(int)
    np.testing.assert_allclose(found, colours(expected, data).astype(int), atol=1)


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"space": "bass"}, "'bass'"), ({"around": "me"}, "'me'"), ({"steps": 1}, "1"), ({"units": 0}, "0")],
)
def test_other_words_are_refused(settings: dict[str, object], told: str) -> None:
    data = pictures(1, 4, 4)
    with pytest.raises(FlowvaeError, match=told):
        plot_traversal(*small_pair(data), data, **settings)  # type: ignore[arg-type]


def test_a_mixture_has_no_base_space() -> None:
    data = pictures(1, 4, 4)
    with pytest.raises(FlowvaeError, match="base"):
        plot_traversal(*small_pair(data, "mixture"), data, space="base")
