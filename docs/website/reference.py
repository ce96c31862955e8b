"""The pages of the API reference: one per package, from its `__all__`."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from website.docstrings import to_rst

ROOMS = {
    "flowvae": "Experiments, runs and specs",
    "flowvae.data": "Data sets",
    "flowvae.flows": "Normalizing flows",
    "flowvae.networks": "Networks",
    "flowvae.models": "Models, priors and likelihoods",
    "flowvae.guides": "Guides",
    "flowvae.inference": "Training and objectives",
    "flowvae.evaluation": "Measures and figures",
    "flowvae.comparisons": "Questions and answers",
    "flowvae.course": "Exercises of the course",
}
# subfolders of a package in the order of the page; modules of the package come first, other folders last
GROUPS = {
    "core": "Specs and errors",
    "experiments": "Experiments and runs",
    "files": "Your own data",
    "published": "Published data sets",
    "simulated": "Simulated data sets",
    "images": "Images",
    "autoregressive": "Autoregressive",
    "coupling": "Coupling",
    "planar": "Planar, radial and Sylvester",
    "residual": "Residual",
    "linear": "Linear",
    "continuous": "Continuous",
    "image": "Image flows",
    "layers": "Layers",
    "priors": "Priors",
    "likelihoods": "Likelihoods",
    "examples": "Example models",
    "automatic": "Guides for any model",
    "objectives": "Objectives",
    "compile": "Compiled steps",
    "likelihood": "Likelihood and bounds",
    "latent": "The latent space",
    "samples": "Samples",
    "calibration": "Calibration",
    "arviz": "ArviZ",
    "figures": "Figures",
    "engine": "The engine",
}
# descriptions of objects that are neither classes nor functions, which have no docstrings
TEXTS = {
    "flowvae.comparisons.BASES": "Base experiments of the data sets for questions, by name.",
    "flowvae.comparisons.PRESETS": "Presets for the computational effort of an answer, by name: seeds, epochs, draws.",
    "flowvae.comparisons.QUESTIONS": "The registered questions, by name.",
    "flowvae.data.REFERENCES": "The parameters with reference draws, by name of the posterior.",
    "flowvae.evaluation.COMPILE": "The values of the argument `compile` of measures.",
    "flowvae.evaluation.FIGURES": "The figures of a run, by name.",
    "flowvae.evaluation.MEASURES": "The registered measures, by name.",
    "flowvae.inference.Callback": "A function of an epoch's row; training stops if it returns True.",
    "flowvae.inference.MODES": "The values of the argument `compile` of `CompiledTrace_ELBO`, besides none.",
    "flowvae.models.REFERENCE_MODELS": "Pyro models of posteriors with published reference draws, by name.",
}


@dataclass(frozen=True)
class Entry:
    """A public object, and the page that documents it."""

    room: str
    name: str

    @property
    def full(self) -> str:
        return f"{self.room}.{self.name}"

    @property
    def value(self) -> Any:
        return getattr(importlib.import_module(self.room), self.name)

    @property
    def module(self) -> str:
        value = self.value
        home = inspect.unwrap(value).__module__ if callable(value) else ""
        return home if str(home).startswith("flowvae") else _defined_in(self)

    @property
    def group(self) -> str:
        """The subfolder of the package in which it is defined; empty for the package itself."""
        inner = self.module.removeprefix(self.room).strip(".").split(".")
        return inner[0] if self.module.startswith(self.room) and len(inner) > 1 else ""

    @property
    def summary(self) -> str:
        text = TEXTS.get(self.full) or inspect.getdoc(self.value) or ""
        return re.split(r"\n\s*\n", text.strip())[0].replace("\n", " ")


def _defined_in(entry: Entry) -> str:
    """Returns the module of a value without `__module__`: the one in which its name is assigned."""
    for name, module in list(sys.modules.items()):
        if name.startswith(entry.room + ".") and getattr(module, entry.name, None) is entry.value:
            source = Path(str(module.__file__)).read_text()
            if re.search(rf"^{entry.name}\b.*=", source, re.MULTILINE):
                return name
    return entry.room


@cache
def entries() -> dict[str, list[Entry]]:
    """Returns the public objects by package; an object of several packages is documented in the inner one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rooms = {room: importlib.import_module(room) for room in ROOMS}
    found: dict[str, list[Entry]] = {room: [] for room in ROOMS}
    seen: list[Any] = []
    for room in [*list(ROOMS)[1:], "flowvae"]:
        for name in rooms[room].__all__:
            value = getattr(rooms[room], name)
            if not any(value is other for other in seen):
                seen.append(value)
                found[room].append(Entry(room, name))
    return found


@cache
def short_names() -> dict[str, str]:
    """Maps the names of public objects to their full names, if they are unique."""
    every = [entry for room in entries().values() for entry in room]
    counts: dict[str, list[str]] = {}
    for entry in every:
        counts.setdefault(entry.name, []).append(entry.full)
    return {name: full[0] for name, full in counts.items() if len(full) == 1}


def write_reference(folder: Path) -> list[str]:
    """Writes all pages of the reference, and returns their names.

    Args:
        folder: the folder to write to.

    """
    folder.mkdir(parents=True, exist_ok=True)
    for room in ROOMS:
        (folder / f"{room}.rst").write_text("\n".join(page(room)) + "\n")
    rows = [line for room, title in ROOMS.items() for line in (f"   * - :doc:`{room} <{room}>`", f"     - {title}")]
    index = [*_title("API reference", "="), "Every public object, by the module that you import it from.", ""]
    (folder / "index.rst").write_text("\n".join([*index, ".. list-table::", "", *rows]) + "\n")
    return list(ROOMS)


def page(room: str) -> Iterator[str]:
    """Yields the lines of a package's page.

    Args:
        room: the package, such as flowvae.flows.

    """
    yield from _title(room, "=")
    yield from (f".. automodule:: {room}", "   :no-members:", "")
    if room == "flowvae":
        yield from _imported()
    listed = entries()[room]
    order = ["", *GROUPS]
    groups = sorted({entry.group for entry in listed}, key=lambda group: [*order, group].index(group))
    for group in groups:
        members = sorted((entry for entry in listed if entry.group == group), key=lambda entry: entry.name.lower())
        if len(groups) > 1:
            yield from _title(GROUPS.get(group, group) if group else "General", "-")
        yield from (".. list-table::", "   :class: summary", "   :widths: 30 70", "")
        for entry in members:
            text = " ".join(to_rst([entry.summary], short_names().get))
            yield from (f"   * - :py:obj:`~{entry.full}`", f"     - {text}")
        yield ""
        for entry in members:
            yield from _entry(entry)


def _entry(entry: Entry) -> Iterator[str]:
    value = entry.value
    if inspect.isclass(value):
        kind = "exception" if issubclass(value, BaseException) else "class"
        members = [] if kind == "exception" else ["   :members:", "   :member-order: bysource"]
        yield from (f".. auto{kind}:: {entry.full}", *members, "")
    elif inspect.isroutine(inspect.unwrap(value)) and not isinstance(value, type):
        yield from (f".. autofunction:: {entry.full}", "")
    else:
        text = to_rst([entry.summary], short_names().get)
        yield from (f".. py:data:: {entry.name}", "", *(f"   {line}" for line in text), "")


def _imported() -> Iterator[str]:
    """Yields the list of objects that `flowvae` exports and other pages document."""
    outer = importlib.import_module("flowvae")
    own = {entry.name for entry in entries()["flowvae"]}
    yield from _title("Also importable from flowvae", "-")
    for room, listed in entries().items():
        names = [entry for entry in listed if entry.name in outer.__all__ and entry.name not in own]
        names = [entry for entry in names if getattr(outer, entry.name) is entry.value]
        if names:
            yield f":doc:`{room}`: " + ", ".join(f":py:obj:`~{entry.full}`" for entry in names) + "."
            yield ""


def _title(text: str, line: str) -> list[str]:
    return [text, line * len(text), ""]
