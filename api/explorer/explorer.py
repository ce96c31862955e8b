"""The latent-space explorer: move a point of the base space, and see its code and the decoded image.

It needs ipywidgets (`pip install 'flowvae[notebooks]'`); without them `explore` returns a figure.
"""

from __future__ import annotations

import base64
import importlib
import io
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from flowvae.core.errors import FlowvaeError, check_int_value, shown
from flowvae.core.registry import name_of
from flowvae.evaluation.figures.drawing import new_figure
from flowvae.evaluation.figures.explorer_plots import REACH, SIZE, Scene, draw_state
from flowvae.experiments.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Explorer", "explore"]

DPI = 100


def explore(runs: Run | Mapping[str, Run], widgets: bool | None = None, seed: int = 0) -> Explorer | Figure:
    """Explore the latent spaces of trained runs, with sliders in a notebook and as a figure elsewhere.

    Sliders move the point u along two dimensions of the base space (for a prior without one, the code z); menus select
    prior and guide among the runs. See `draw_state` for the figure. As the last line of a cell, the explorer is
    displayed as widgets. Notebook viewers and converters without live widgets show the first picture, which is part of
    the same output.

    Args:
        runs: one run, or several by name. They may differ in all settings, including the data.
        widgets: whether to create widgets. None: only in a Jupyter kernel with ipywidgets; otherwise the figure.
        seed: seed of the first point and of the choice of visible codes.

    Returns:
        The explorer, or a figure with one row per run, each at the point of this seed.

    Raises:
        FlowvaeError: without runs, for something that is not a run, a latent of one dimension, a negative seed, or
            `widgets=True` without ipywidgets.
    """
    named = {runs.directory.name if runs.directory else "run": runs} if isinstance(runs, Run) else runs
    if not isinstance(named, Mapping) or not named:
        raise FlowvaeError(f"runs = {shown(runs)}: must be a run or runs by name, such as {{'maf': load('runs/maf')}}.")
    for name, run in named.items():
        if not isinstance(run, Run):
            raise FlowvaeError(
                f"runs[{shown(name)}] = {shown(run)}: must be a run, such as that of `load` or `Experiment.run`."
            )
        if run.experiment.latent_shape.numel() < 2:
            raise FlowvaeError(f"runs[{shown(name)}] has latent = 1: the explorer needs 2 dimensions or more.")
    check_int_value("seed", seed, least=0)
    if widgets is None:
        widgets = _in_kernel() and _ipywidgets() is not None
    if not widgets:
        return _rows(named, seed)
    if _ipywidgets() is None:
        raise FlowvaeError("widgets=True: ipywidgets is not installed; pip install 'flowvae[notebooks]'.")
    return Explorer(named, seed)


class Explorer:
    """The widgets of `explore`, and their state.

    Args:
        runs: runs by name.
        seed: seed of the first point and of the choice of visible codes.

    Attributes:
        widget: the whole explorer, an ipywidgets box.
        point: the current point, shape (latent,): u, or z for a prior without a base space.
    """

    point: Tensor

    def __init__(self, runs: Mapping[str, Run], seed: int = 0) -> None:
        self.runs, self.seed = dict(runs), seed
        self._scenes: dict[str, Scene] = {}
        self._canvases: dict[str, Figure] = {}  # one reusable figure per run
        self._still = True  # whether to ignore events, while a handler sets other controls
        ui = _ipywidgets()
        wide, narrow = ui.Layout(width="430px"), ui.Layout(width="210px")
        self.prior, self.guide = (ui.Dropdown(description=text, layout=narrow) for text in ("prior", "guide"))
        self.run = ui.Dropdown(description="run", layout=ui.Layout(width="320px"))  # names may be long
        self.dimensions = [ui.Dropdown(description=text, layout=narrow) for text in ("across", "up")]
        # the range includes every point of a random draw or of another run
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
        """The scene of the selected run."""
        name = self.run.value
        if name not in self._scenes:
            run = self.runs[name]
            self._scenes[name] = Scene(*run.pair, run.data, self.seed)
        return self._scenes[name]

    @property
    def plane(self) -> tuple[int, int]:
        """The two visible dimensions."""
        return self.dimensions[0].value, self.dimensions[1].value

    @property
    def figure(self) -> Figure:
        """A separate figure of the current state."""
        from matplotlib.figure import Figure

        return cast(Figure, draw_state(self.scene, self.point, self.plane))

    def move(self, point: Tensor) -> None:
        """Move to a point, shape (latent,).

        Raises:
            FlowvaeError: for a point of another shape, or with values that are not finite.
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
        """Create an event handler that runs these steps and redraws, ignoring events that the steps trigger."""

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
        """Offer the guides of the runs with this prior; keep the current one if it is among them."""
        _offer(self.guide, (_guide(run) for run in self.runs.values() if _prior(run) == self.prior.value))
        self._choose_run()

    def _choose_run(self) -> None:
        wanted = self.prior.value, self.guide.value
        _offer(self.run, (name for name, run in self.runs.items() if (_prior(run), _guide(run)) == wanted))

    def _enter(self) -> None:
        """Keep the point of the previous run if it is in the same space; otherwise start from a random one."""
        before, scene = getattr(self, "point", None), self.scene
        same = before is not None and len(before) == scene.latent and self.sliders[0].description[:1] == scene.symbol
        if not same:
            self.point = scene.draw(self.seed)
            for chosen, dimension in zip(self.dimensions, scene.plane, strict=True):
                _offer(chosen, range(scene.latent), dimension)
        for slider in self.sliders:
            slider.description = scene.symbol

    def _turn(self, here: Any, other: Any) -> None:
        """Show another dimension; if the other axis shows it already, change that axis."""
        if here.value == other.value:
            other.value = (here.value + 1) % self.scene.latent

    def _slide(self) -> None:
        point = self.point.clone()
        for slider, dimension in zip(self.sliders, self.plane, strict=True):
            point[dimension] = slider.value
        self.point = point

    def _draw(self) -> None:
        self.move(self.scene.draw(self.number.value))
        self.number.value = self.number.value + 1  # so that the next click draws another point

    def _show(self) -> None:
        """Set the sliders to the point, and draw."""
        still, self._still = self._still, True
        for slider, dimension in zip(self.sliders, self.plane, strict=True):
            value = self.point[dimension].item()
            reach = REACH if self.scene.has_base else float(self.scene.codes.abs().max())
            slider.min, slider.max = min(-reach, value), max(reach, value)  # widen first, since min must not exceed max
            slider.value = value
            slider.description = f"{self.scene.symbol}{dimension}"
        self._still = still
        canvas = self._canvases.setdefault(self.run.value, new_figure(SIZE, fixed=True))
        draw_state(self.scene, self.point, self.plane, on=canvas)
        self.image.value = _png(canvas)

    def _repr_mimebundle_(self, **settings: Any) -> dict[str, Any]:
        # viewers show the richest form that they support: live widgets, otherwise the picture
        bundle = self.widget._repr_mimebundle_(**settings)
        bundle, *_ = bundle if isinstance(bundle, tuple) else (bundle,)
        picture = base64.b64encode(self.image.value).decode()
        return {**bundle, "image/png": picture, "text/plain": f"Explorer of {', '.join(self.runs)}"}


def _offer(menu: Any, options: Iterable[Any], value: Any = None) -> None:
    """Set the options of a menu, without duplicates; select this value, else the current one, else the first."""
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
    """Figure with one row per run, each at the point of this seed."""
    figure = new_figure((SIZE[0], SIZE[1] * len(runs)), fixed=True)
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
        figure.savefig(file, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})  # fast, for sliders
        return file.getvalue()


def _ipywidgets() -> Any:
    """Import ipywidgets; None if it is not installed."""
    try:
        return importlib.import_module("ipywidgets")
    except ImportError:
        return None


def _in_kernel() -> bool:
    """Whether this process is a Jupyter kernel; IPython in a terminal has a shell but no kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")
