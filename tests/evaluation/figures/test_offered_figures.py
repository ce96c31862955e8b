"""The figures that a measure offers can be drawn, whatever prior, latent, data and draws it met."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowvae import Experiment, Pinwheel
from flowvae.core.registry import families
from flowvae.data import DataSpec
from flowvae.evaluation import MEASURES, EvaluationContext
from flowvae.networks import MLP

PLANE = Pinwheel(train=300, valid=20, test=210)


def context(latent: int, prior: str = "normal", of: DataSpec = PLANE, draws: int = 20) -> EvaluationContext:
    data = of.load(0)
    experiment = Experiment(latent=latent, encoder=MLP((8,)), decoder=MLP((8,)), prior=families("prior")[prior].default)
    return EvaluationContext(*experiment.build(data), data, "test", draws, 0, {"measure": "its name"})


@pytest.mark.parametrize(("draws", "offered"), [(20, set()), (60, {"khat"})])
def test_k_is_drawn_where_there_is_one(draws: int, offered: set[str]) -> None:
    taken = MEASURES["likelihood"](context(1, draws=draws))
    assert set(taken.figures) == offered
    for draw in taken.figures.values():
        draw()


@pytest.mark.parametrize("latent", [1, 2])
def test_holes_are_drawn_in_a_plane(latent: int) -> None:
    taken = MEASURES["holes"](context(latent))
    assert set(taken.figures) == ({"holes"} if latent > 1 else set())
    for draw in taken.figures.values():
        draw()


def test_fid_is_drawn_against_the_number_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWVAE_CACHE", str(tmp_path))
    taken = MEASURES["generation"](context(2))
    value = {metric.name: metric.value for metric in taken.metrics}
    figure = taken.figures["fid"]()
    ax = figure.axes[0]
    assert "variances" in ax.get_ylabel()
    for line, name in zip(ax.containers, ("fid", "fid_of_train"), strict=True):
        x, y = line.lines[0].get_data()
        assert x.min() == pytest.approx(1 / 210)
        assert y[x.argmin()] == pytest.approx(value[name])  # all data there are: the measure itself
