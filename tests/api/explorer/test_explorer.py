"""The explorer: its points, densities and widgets, and the figure where there are no widgets."""

from __future__ import annotations

import base64
import importlib.util
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import disturb
from matplotlib.figure import Figure, SubFigure
from torch.distributions import Normal

from flowvae import (
    IAF,
    MAF,
    Digits,
    Experiment,
    FlowGuide,
    FlowvaeError,
    Mixture,
    Pinwheel,
    Run,
    SemiAmortized,
    explorer,
)
from flowvae.data import DataSpec
from flowvae.evaluation.figures.explorer_plots import Scene, draw_state
from flowvae.experiments.signature import Signature
from flowvae.explorer.explorer import explore
from flowvae.networks import MLP

PINWHEEL = Pinwheel(train=60, valid=20, test=50)
BASE = Experiment(latent=2, data=PINWHEEL, encoder=MLP((8,)), decoder=MLP((8,)))
FLOW = replace(BASE, prior=MAF(2, (8,)))


def untrained(experiment: Experiment) -> Run:
    """A run that was not trained, its prior moved away from the identity."""
    data = experiment.data.load(0)
    pair = experiment.build(data)
    disturb(pair.model.prior, 0.3)
    return Run(experiment, Signature.of(data), pair, directory=Path("none"), known_data=data)


def scene(experiment: Experiment) -> Scene:
    run = untrained(experiment)
    return Scene(*run.pair, run.data)


@pytest.fixture
def no_ipywidgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)


def test_the_code_is_where_the_flow_takes_the_point() -> None:
    run = untrained(FLOW)
    view = Scene(*run.pair, run.data)
    u = view.draw(3)
    with torch.no_grad():
        flow = run.pair.model.prior()
        assert torch.allclose(view.code(u), flow.transform.inv(u))
        assert torch.allclose(view.points, flow.transform(view.codes), atol=1e-4)
    ax = draw_state(view, u).axes[1]
    marker = ax.lines[-1]
    assert np.allclose(np.ravel(marker.get_data()), flow.transform.inv(u).numpy(force=True), atol=1e-5)


def test_the_prior_without_a_base_is_walked_through_itself() -> None:
    view = scene(replace(BASE, prior=Mixture(3)))
    point = view.draw(0)
    assert not view.has_base
    assert torch.equal(view.code(point), point)
    draw_state(view, point).savefig(BytesIO())


@pytest.mark.parametrize("experiment", [BASE, FLOW, replace(BASE, prior=Mixture(3))], ids=["normal", "maf", "mixture"])
def test_the_density_integrates_to_one(experiment: Experiment) -> None:
    view = scene(experiment)
    view._window = np.array([[-9.0, -9.0], [9.0, 9.0]])  # as large as the whole mass
    sides, log_density = view.density(torch.zeros(2), (0, 1))
    area = (sides[0, 1] - sides[0, 0]) * (sides[1, 1] - sides[1, 0])
    assert np.exp(log_density).sum() * area == pytest.approx(1, abs=0.01)
    assert view.density(torch.ones(2), (0, 1))[1] is log_density  # once for all points


def test_a_slice_holds_the_other_coordinates() -> None:
    """Under N(0, I) the density on a plane is known."""
    view = scene(replace(BASE, latent=5))
    z = torch.tensor([0.1, -0.4, 2.0, 0.7, -1.0])
    sides, log_density = view.density(z, (3, 1))
    across, up = (torch.as_tensor(side) for side in sides)
    normal = Normal(0.0, 1.0)
    others = normal.log_prob(z[[0, 2, 4]]).sum().item()
    truth = normal.log_prob(across)[None, :] + normal.log_prob(up)[:, None] + others
    assert np.allclose(log_density, truth.numpy(), atol=1e-4)


@pytest.mark.parametrize(("latent", "data"), [(2, PINWHEEL), (4, PINWHEEL), (8, Digits())])
@pytest.mark.parametrize("guide", [FlowGuide(IAF(2, (8,))), SemiAmortized(steps=2)], ids=["iaf", "semi-amortized"])
def test_every_kind_is_drawn(latent: int, data: DataSpec, guide: Any) -> None:
    view = scene(replace(FLOW, latent=latent, data=data, guide=guide))
    figure = draw_state(view, view.draw(0))
    figure.savefig(BytesIO())
    assert sum(bool(ax.get_title()) for ax in figure.axes) == (4 if isinstance(data, Digits) else 3)


@pytest.mark.parametrize("experiment", [FLOW, replace(FLOW, latent=4), replace(BASE, latent=3, data=Digits())])
def test_a_figure_that_is_drawn_on_again_looks_like_a_new_one(experiment: Experiment) -> None:
    view = scene(experiment)
    here, far = view.draw(0), torch.full((experiment.latent,), 6.0)  # far: the window is widened for it

    def picture(figure: Figure | SubFigure) -> bytes:
        assert isinstance(figure, Figure)
        with BytesIO() as file:
            figure.savefig(file, format="png")
            return file.getvalue()

    used = draw_state(view, far, (1, 0))
    old = picture(used)
    new = picture(draw_state(view, here, (0, 1), on=used))
    assert new == picture(draw_state(view, here, (0, 1))) != old


def test_the_same_seed_draws_the_same() -> None:
    view, again = scene(FLOW), scene(FLOW)
    assert torch.equal(view.draw(5), again.draw(5))
    assert not torch.equal(view.draw(5), view.draw(6))
    assert torch.equal(view.codes, again.codes)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda run: explore({}), "must be a run or runs by name"),
        (lambda run: explore({"a": "runs/a"}), "`load`"),
        (lambda run: explore(run, seed=-1), "seed = -1"),
        (lambda run: explore(untrained(replace(BASE, latent=1))), "latent = 1"),
        (lambda run: Scene(*untrained(replace(BASE, latent=1)).pair, run.data), "latent = 1"),
        (lambda run: draw_state(Scene(*run.pair, run.data), [0.0]), "must be 2 finite numbers"),
        (lambda run: draw_state(Scene(*run.pair, run.data), [0.0, np.nan]), "must be 2 finite numbers"),
        (lambda run: draw_state(Scene(*run.pair, run.data), [0, 0], (1, 1)), "two different dimensions"),
        (lambda run: draw_state(Scene(*run.pair, run.data), [0, 0], (0, 2)), "from 0 to 1"),
    ],
)
def test_mistakes_are_named(call: Callable[[Run], object], reason: str) -> None:
    with pytest.raises(FlowvaeError, match=reason):
        call(untrained(BASE))


@pytest.mark.usefixtures("no_ipywidgets")
def test_without_ipywidgets_there_is_a_figure() -> None:
    runs = {"normal": untrained(BASE), "maf": untrained(FLOW)}
    figure = explore(runs)
    assert isinstance(figure, Figure)
    assert len(figure.subfigs) == 2
    for shown in (figure, draw_state(scene(FLOW), torch.zeros(2))):  # a notebook shows both without pyplot
        assert shown._repr_png_()[0].startswith(b"\x89PNG")  # type: ignore[union-attr]
    with pytest.raises(FlowvaeError, match=r"flowvae\[notebooks\]"):
        explore(runs, widgets=True)


@pytest.mark.usefixtures("no_ipywidgets")
def test_the_module_needs_no_ipywidgets() -> None:
    runpy.run_path(str(explorer.__file__))


def test_the_widgets_move_the_point_and_choose_the_run() -> None:
    if importlib.util.find_spec("ipywidgets") is None:
        pytest.skip("ipywidgets is not installed: it comes with the extra `notebooks`")
    runs = {
        "a": untrained(BASE),
        "b": untrained(FLOW),
        "c": untrained(replace(FLOW, guide=FlowGuide(IAF(2, (8,))))),
        "d": untrained(replace(BASE, prior=Mixture(3), latent=4)),
    }
    shown = explore(runs, widgets=True)
    assert not isinstance(shown, Figure)
    assert shown.prior.options == ("normal", "maf", "mixture")
    assert shown.guide.options == ("gaussian",)
    pictures = [shown.image.value]
    shown.sliders[1].value = 1.5
    assert shown.point[1] == 1.5
    pictures.append(shown.image.value)
    shown.prior.value = "maf"
    assert (shown.run.value, shown.point[1].item()) == ("b", 1.5)
    pictures.append(shown.image.value)
    shown.guide.value = "iaf"
    assert shown.run.value == "c"
    shown.number.value = 7
    shown.random.click()
    assert torch.equal(shown.point, shown.scene.draw(7))
    assert shown.sliders[0].value == pytest.approx(shown.point[0].item())
    assert shown.number.value == 8
    pictures.append(shown.image.value)
    shown.prior.value = "mixture"
    assert (shown.run.value, len(shown.point), shown.sliders[0].description[0]) == ("d", 4, "z")
    shown.dimensions[0].value = shown.dimensions[1].value  # the other axis gives way
    assert len(set(shown.plane)) == 2
    pictures.append(shown.image.value)
    assert len(set(pictures)) == len(pictures)
    bundle = shown._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == shown.image.value
    assert "application/vnd.jupyter.widget-view+json" in bundle
    shown.widget.close_all()
