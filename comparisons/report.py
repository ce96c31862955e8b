"""One HTML page of everything that was asked: it opens from disk and needs nothing else."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from flowvae.comparisons.statistics import summarize
from flowvae.errors import FlowvaeError
from flowvae.files import atomic_write

__all__ = ["write_report"]


@dataclass(frozen=True)
class _Section:
    """A question on one data set, ready for the page."""

    protocol: dict[str, Any]
    means: pd.DataFrame
    differences: dict[str, pd.DataFrame]
    table: pd.DataFrame
    failed: pd.DataFrame
    pictures: list[tuple[str, str, str]]  # title, alternative text, data URI
    samples: list[tuple[str, str]]  # arm, data URI
    settings: dict[str, str]  # arm: YAML


def write_report(directory: str | Path) -> Path:
    """Write `directory/report.html` of every answer in the directory.

    Pictures are inside the page, so it can be sent by mail; it reads on a phone and in print.

    Args:
        directory: where `flowvae compare --out` put its answers.

    Returns:
        The page.

    Raises:
        FlowvaeError: if there is no answer in the directory, or one is damaged.
    """
    directory = Path(directory)
    places = sorted(path.parent for path in directory.glob("*/answer.json"))
    if not places:
        raise FlowvaeError(f"{directory}: no answer in it; make one with `flowvae compare QUESTION --out {directory}`.")
    sections = [_read(place) for place in places]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["figure"] = _figure
    template = environment.from_string(files("flowvae.comparisons").joinpath("report.html").read_text())
    page = directory / "report.html"
    with atomic_write(page) as temporary:
        temporary.write_text(template.render(sections=sections), encoding="utf-8")
    return page


def _read(place: Path) -> _Section:
    try:
        protocol = json.loads((place / "answer.json").read_text())
        table = pd.read_csv(place / "table.csv")
        failed = pd.read_csv(place / "failed.csv")
        measures = [protocol["measure"], *protocol["secondary"]]
        protocol["identity"]["split"], protocol["sentences"], protocol["versions"]  # what the page needs
        found = {name: place / f"differences-{name}.csv" for name in measures}
        differences = {name: pd.read_csv(file) for name, file in found.items() if file.is_file()}
    except (OSError, ValueError, KeyError) as error:
        raise FlowvaeError(f"{place}: damaged or from another version ({error}); run its comparison again.") from None
    pictures = [
        (_title(file.stem), _alternative(file.stem, protocol), _uri(file))
        for file in sorted(place.glob("*.png"), key=lambda file: (file.stem != "differences", file.stem))
    ]
    samples = [
        (name, _uri(file))
        for name in ("data", *protocol["arms"])
        if (file := place / "samples" / f"{name}.png").is_file()
    ]
    settings = {name: yaml.safe_dump(plain, sort_keys=False) for name, plain in protocol["arms"].items()}
    return _Section(protocol, summarize(table, measures), differences, table, failed, pictures, samples, settings)


def _title(stem: str) -> str:
    return stem.replace("-", " ").capitalize()


def _alternative(stem: str, protocol: dict[str, Any]) -> str:
    if stem == "differences":
        return "Paired differences with 95 % intervals. " + " ".join(protocol["sentences"])
    if stem == "priors":
        return f"Priors of the arms and the codes of test data, first seed on {protocol['data']}."
    return f"{_title(stem)} on {protocol['data']}: the mean over seeds as lines, every seed as a dot."


def _uri(file: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def _figure(value: object) -> str:
    """A table's entry as text: small p in scientific notation, other floats with three digits after the point."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.1e}" if 0 < abs(value) < 0.001 else f"{value:.3f}"
