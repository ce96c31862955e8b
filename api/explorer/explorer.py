"""A walk through the latent space of trained runs: move a point of the base, and see its code and its image.

It needs ipywidgets, which `pip install 'flowvae[notebooks]'` brings; without them there is a figure instead.
"""

from __future__ import annotations

import base64
import importlib
import io
import sys
from collections.abc import Iterable, Mapping
from typing import Any, cast

from matplotlib.figure import Figure
from torch import Tensor

from flowvae.core.errors import FlowvaeError, check_int_value, shown
from flowvae.evaluation.figures.explorer_plots import REACH, SIZE, Scene, draw_state
from flowvae.experiments.families import name_of
from flowvae.experiments.run import Run

__all__ = ["Explorer", "explore"]

DPI = 100


def explore(runs: Run | Mapping[str, Run], widgets: bool | None = None, seed: int = 0) -> Explorer | Figure:
    """Explore the latent spaces of trained runs, in a notebook with sliders, elsewhere as a figure.

    Sliders move the point u along two dimensions of the base (of a prior without one, the code z itself); menus choose
    prior and guide among the runs. `draw_state` says what is shown. As the last line of a cell it is displayed, in
    JupyterLab as widgets. Where the notebook is only looked at or converted, and no widgets are alive, viewers
    show the first picture, which is part of the same output.

    Args:
        runs: one run, or several by name. They may differ in everything, data too.
        widgets: whether to make widgets. None: in a Jupyter kernel that has ipywidgets; a plain interpreter, a
            terminal and a kernel without ipywidgets get the figure.
        seed: of the first point, and of the codes that are shown.

    Returns:
        The explorer, or a figure with a row a run, all at the point of the same seed.

    Raises:
        FlowvaeError: for no runs, something that is no run, a latent of one dimension, a negative seed, or
            `widgets=True` without ipywidgets.
    """
    named = {runs.directory.name: runs} if isinstance(runs, Run) else runs
    if not isinstance(named, Mapping) or not named:
        raise FlowvaeError(f"runs = {shown(runs)}: must be a run or runs by name, such as {{'maf': load('runs/maf')}}.")
    for name, run in named.items():
        if not isinstance(run, Run):
            raise FlowvaeError(
                f"runs[{shown(name)}] = {shown(run)}: must be a run; `load` or `Experiment.run` gives one."
            )
        if run.experiment.latent < 2:
            raise FlowvaeError(
                f"runs[{shown(name)}] has latent = 1: the explorer moves in a plane; it needs 2 or more."
            )
    check_int_value("seed", seed, least=0)
    if widgets is None:
        widgets = _in_kernel() and _ipywidgets() is not None
    if not widgets:
        return _rows(named, seed)
    if _ipywidgets() is None:
        raise FlowvaeError("widgets=True: ipywidgets is not installed; pip install 'flowvae[notebooks]' brings it.")
    return Explorer(named, seed)


class Explorer:
    """The widgets of `explore`, and what they show.

    Args:
        runs: runs by name.
        seed: of the first point and of the codes.

    Attributes:
        widget: all of it, an ipywidgets box.
        point: where the explorer is, shape (latent,): u, or z of a prior without a base.
    """

    point: Tensor

    def __init__(self, runs: Mapping[str, Run], seed: int = 0) -> None:
        self.runs, self.seed = dict(runs), seed
        self._scenes: dict[str, Scene] = {}
        self._canvases: dict[str, Figure] = {}  # a figure a run, drawn on again and again
        self._still = True  # while a handler sets other controls, these do not answer
        ui = _ipywidgets()
        wide, narrow = ui.Layout(width="430px"), ui.Layout(width="210px")
        self.prior, self.guide = (ui.Dropdown(description=text, layout=narrow) for text in ("prior", "guide"))
        self.run = ui.Dropdown(description="run", layout=ui.Layout(width="320px"))  # names may be long
        self.dimensions = [ui.Dropdown(description=text, layout=narrow) for text in ("across", "up")]
        # wide enough for every point that a random draw or another run can bring
        self.sliders = [
            ui.FloatSlider(min=-REACH, max=REACH, step=0.05, readout_format=".2f", layout=wide) for _ in range(2)
        ]
        self.random = ui.Button(description="random draw", layout=ui.Layout(width="110px"))
        self.number = ui.BoundedIntText(seed + 1, 0, 2**31 - 1, description="seed", layout=ui.Layout(width="180px"))
        self.image = ui.Image(format="png", layout=ui.Layout(max_width="100%", object_fit="contain"))
        rows = [
            ui.HBox([self.prior, self.guide, self.run]),
            ui.HBox([*self.dimensions, self.random, self.number]),
            ui.HBox(self.sliders),
            self.image,
        ]
        self.widget = ui.VBox(rows)
        self._start()

    @property
    def scene(self) -> Scene:
        """Of the chosen run."""
        name = self.run.value
        if name not in self._scenes:
            run = self.runs[name]
            self._scenes[name] = Scene(*run.pair, run.data, self.seed)
        return self._scenes[name]

    @property
    def plane(self) -> tuple[int, int]:
        """The two dimensions that are shown."""
        return self.dimensions[0].value, self.dimensions[1].value

    @property
    def figure(self) -> Figure:
        """What is shown now, as a figure of its own."""
        return cast(Figure, draw_state(self.scene, self.point, self.plane))

    def move(self, point: Tensor) -> None:
        """Go to a point, shape (latent,).

        Raises:
            FlowvaeError: for a point of another shape, or not finite.
        """
        self.point, _ = self.scene.check(point, None)
        self._show()

    def _start(self) -> None:
        _offer(self.prior, (_prior(run) for run in self.runs.values()))
        self._choose_guide()
        self._enter()
        self.move(self.scene.draw(self.seed))
        self.prior.observe(self._answer(self._choose_guide, self._enter), "value")
        self.guide.observe(self._answer(self._choose_run, self._enter), "value")
        self.run.observe(self._answer(self._enter), "value")
        for here, other in (self.dimensions, self.dimensions[::-1]):
            here.observe(self._answer(lambda here=here, other=other: self._turn(here, other)), "value")
        for slider in self.sliders:
            slider.observe(self._answer(self._slide), "value")
        self.random.on_click(lambda _: self._draw())
        self._still = False

    def _answer(self, *steps: Any) -> Any:
        """A handler that takes these steps and shows the result, and is deaf to the changes that they make."""

        def handler(_: Any) -> None:
            if self._still:
                return
            self._still = True
            try:
                for step in steps:
                    step()
                self._show()
            finally:
                self._still = False

        return handler

    def _choose_guide(self) -> None:
        """Offer the guides that runs with this prior have; the same as before, if it is among them."""
        _offer(self.guide, (_guide(run) for run in self.runs.values() if _prior(run) == self.prior.value))
        self._choose_run()

    def _choose_run(self) -> None:
        wanted = self.prior.value, self.guide.value
        _offer(self.run, (name for name, run in self.runs.items() if (_prior(run), _guide(run)) == wanted))

    def _enter(self) -> None:
        """Take over the point of the run before, where it means the same; else begin with a random one."""
        before, scene = getattr(self, "point", None), self.scene
        same = before is not None and len(before) == scene.latent and self.sliders[0].description[:1] == scene.symbol
        if not same:
            self.point = scene.draw(self.seed)
            for chosen, dimension in zip(self.dimensions, scene.plane, strict=True):
                _offer(chosen, range(scene.latent), dimension)
        for slider in self.sliders:
            slider.description = scene.symbol

    def _turn(self, here: Any, other: Any) -> None:
        """Another dimension is shown; if the other axis has it already, that one gives way."""
        if here.value == other.value:
            other.value = (here.value + 1) % self.scene.latent

    def _slide(self) -> None:
        point = self.point.clone()
        for slider, dimension in zip(self.sliders, self.plane, strict=True):
            point[dimension] = slider.value
        self.point = point

    def _draw(self) -> None:
        self.move(self.scene.draw(self.number.value))
        self.number.value = self.number.value + 1  # so that the next click draws another

    def _show(self) -> None:
        """Set the sliders to where the point is, and draw."""
        still, self._still = self._still, True
        for slider, dimension in zip(self.sliders, self.plane, strict=True):
            value = self.point[dimension].item()
            reach = REACH if self.scene.has_base else float(self.scene.codes.abs().max())
            slider.min, slider.max = min(-reach, value), max(reach, value)  # widen first: min may not exceed max
            slider.value = value
            slider.description = f"{self.scene.symbol}{dimension}"
        self._still = still
        canvas = self._canvases.setdefault(self.run.value, Figure(figsize=SIZE))
        draw_state(self.scene, self.point, self.plane, on=canvas)
        self.image.value = _png(canvas)

    def _repr_mimebundle_(self, **settings: Any) -> dict[str, Any]:
        # a viewer takes the richest form that it can show: widgets where they are alive, or else the picture
        bundle = self.widget._repr_mimebundle_(**settings)
        bundle, *_ = bundle if isinstance(bundle, tuple) else (bundle,)
        picture = base64.b64encode(self.image.value).decode()
        return {**bundle, "image/png": picture, "text/plain": f"Explorer of {', '.join(self.runs)}"}


def _offer(menu: Any, options: Iterable[Any], value: Any = None) -> None:
    """Put options, each once, into a menu: with this value, or with the one that it had, or with the first."""
    each = list(dict.fromkeys(options))
    wanted = menu.value if value is None else value
    menu.options = each
    menu.value = wanted if wanted in each else each[0]


def _prior(run: Run) -> str:
    stage = run.experiment.second_stage
    return name_of(stage.prior if stage else run.experiment.prior)


def _guide(run: Run) -> str:
    return name_of(run.experiment.guide)


def _rows(runs: Mapping[str, Run], seed: int) -> Figure:
    """A row a run, each at the point of this seed."""
    figure = Figure(figsize=(SIZE[0], SIZE[1] * len(runs)))
    parts = figure.subfigures(len(runs), 1, squeeze=False)[:, 0]
    for part, (name, run) in zip(parts, runs.items(), strict=True):
        scene = Scene(*run.pair, run.data, seed)
        draw_state(scene, scene.draw(seed), on=part)
        part.text(
            0.985, 0.02, f"{name}: prior {_prior(run)}, guide {_guide(run)}", ha="right", va="bottom", fontsize=10
        )
    return figure


def _png(figure: Figure) -> bytes:
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})  # a slider waits for it
        return file.getvalue()


def _ipywidgets() -> Any:
    """The library, or None where it is not installed."""
    try:
        return importlib.import_module("ipywidgets")
    except ImportError:
        return None


def _in_kernel() -> bool:
    """Whether this process is a Jupyter kernel: IPython in a terminal has a shell without one."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")
