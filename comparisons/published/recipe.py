"""Recipes: published figures with their protocols, and the experiments that repeat them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flowvae.comparisons.engine.names import check_name, named
from flowvae.core.errors import FlowvaeError, nearest, shown, shown_path
from flowvae.experiments.experiment import Experiment

__all__ = ["MARKS", "MEASURES", "RECIPES", "Measure", "Protocol", "Published", "Recipe", "recipe_of", "register"]

MARKS = {
    "": "from the paper",
    "†": "recalled or read at second hand, and not found again",
    "‡": "found in a public summary or a reproduction, not in the paper itself",
}


@dataclass(frozen=True)
class Measure:
    """How a published figure is computed from the metrics of a run.

    Args:
        title: name of the measure.
        metric: name of the metric.
        factor: factor of the metric: −1 turns an ELBO into an upper bound of the NLL.
        per_dimension: whether nats per data point are divided by D log 2, which gives bits/dim.
        draws: whether the figure depends on the number of draws K.
    """

    title: str
    metric: str
    factor: int = 1
    per_dimension: bool = False
    draws: bool = True

    @property
    def unit(self) -> str:
        """Unit of the figure."""
        return "bits/dim" if self.per_dimension else "nats"


MEASURES = {
    "nll": Measure("NLL", "nll"),
    "nll-bits": Measure("NLL", "nll", per_dimension=True),
    "bound": Measure("negative ELBO", "elbo", factor=-1, draws=False),
    "bound-bits": Measure("negative ELBO", "elbo", factor=-1, per_dimension=True, draws=False),
}


@dataclass(frozen=True)
class Protocol:
    """Protocol that two figures must share to be compared.

    Args:
        data: description of the data and their preprocessing.
        preprocessing: text that the preprocessing in the identity of the data must contain.
        test: number of test data points.
        measure: a name in `MEASURES`.
        draws: K of the NLL; the expectation of an ELBO does not depend on it.
    """

    data: str
    preprocessing: str
    test: int
    measure: str = "nll"
    draws: int = 5000

    def __str__(self) -> str:
        kind = MEASURES[self.measure]
        how = f" by importance sampling, K = {self.draws}" if kind.draws else ""
        return f"{self.data}; {kind.title} in {kind.unit}{how}, on {self.test} test images"


@dataclass(frozen=True)
class Published:
    """A published figure.

    Args:
        value: the figure.
        model: the model.
        mark: mark of its provenance, a key of `MARKS`.
        spread: the number after ± in the source, if there is one.
    """

    value: float
    model: str
    mark: str = ""
    spread: float | None = None

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.2f}"
        return f"{self.value:.2f}{spread}" + (f" {self.mark}" if self.mark else "")


@dataclass(frozen=True)
class Recipe:
    """An experiment and the published figures that it is compared with, of one protocol.

    Args:
        name: name for `flowvae reproduce`.
        title: short description of the model.
        source: the paper.
        published: figures of the paper, that of the same model first.
        protocol: protocol of the published figures.
        experiment: settings as in a YAML file.
        files: the files that the data need, and their sources.
        differs: differences of model and training from the paper.
        unlike: reasons why figures can never be compared with the paper's, such as an unpublished split.
        seeds: seeds of the runs.
        hours: expected time of one seed on two cores; None: not measured yet.
    """

    name: str
    title: str
    source: str
    published: tuple[Published, ...]
    protocol: Protocol
    experiment: Mapping[str, Any]
    files: str
    differs: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    hours: float | None = None

    def build(self, path: str | Path | None = None) -> Experiment:
        """Return the experiment.

        Args:
            path: file or folder of the data; None: where the data set looks for it.

        Raises:
            FlowvaeError: for unknown parts or settings, and a path for data that are not read from a file.
        """
        try:
            experiment = Experiment.from_dict(dict(self.experiment))
        except FlowvaeError as error:
            raise FlowvaeError(f"{self.name}: {error}") from None
        if path is None:
            return experiment
        own = [name for name in ("path", "root") if hasattr(experiment.data, name)]
        if not own:
            raise FlowvaeError(f"data path {shown_path(path)}: the data of {self.name} are not read from a file.")
        return replace(experiment, data=replace(experiment.data, **{own[0]: Path(path)}))  # type: ignore[type-var]


RECIPES: dict[str, Recipe] = {}  # by name


def register(recipes: Iterable[Recipe]) -> None:
    """Add recipes to `RECIPES`.

    Raises:
        FlowvaeError: for a name that is not a file name or is taken, and an unknown measure or mark.
    """
    for recipe in recipes:
        check_name("recipe", recipe.name)
        if recipe.name in RECIPES:
            raise FlowvaeError(f"recipe {shown(recipe.name)}: is defined twice; choose another name.")
        if recipe.protocol.measure not in MEASURES:
            raise FlowvaeError(
                f"measure {shown(recipe.protocol.measure)}: {nearest(recipe.protocol.measure, MEASURES)}"
            )
        for figure in recipe.published:
            if figure.mark not in MARKS:
                raise FlowvaeError(f"{recipe.name}: mark {shown(figure.mark)}; must be one of {' '.join(MARKS)}.")
        RECIPES[recipe.name] = recipe


def recipe_of(name: str | Recipe) -> Recipe:
    """Return a recipe by its name; a `Recipe` is returned unchanged.

    Raises:
        FlowvaeError: for an unknown name.
    """
    return named("recipe", name, RECIPES)
