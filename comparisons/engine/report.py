"""A self-contained HTML page of all answers in a directory."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flowvae.comparisons.engine.names import check_name, inside
from flowvae.comparisons.engine.statistics import summarize
from flowvae.core.errors import FlowvaeError, one_line, shown
from flowvae.core.files import as_path, atomic_write

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_report"]


# entries of answer.json that the page needs
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("asks", "predicts", "data", "preset", "measure", "unit", "split", "flowvae"), str),
    **dict.fromkeys(("secondary", "sentences", "seeds"), list),
    **dict.fromkeys(("identity", "arms", "versions"), dict),
    **dict.fromkeys(("draws", "level", "margin"), (int, float)),
    "lower_is_better": bool,
}


@dataclass(frozen=True)
class _Section:
    """The section of the page for one question on one data set."""

    protocol: dict[str, Any]
    means: pd.DataFrame
    differences: dict[str, pd.DataFrame]
    table: pd.DataFrame
    failed: pd.DataFrame
    pictures: list[tuple[str, str, str]]  # title, alternative text, data URI
    samples: list[tuple[str, str]]  # arm, data URI
    settings: dict[str, str]  # arm: YAML


def write_report(directory: str | Path) -> Path:
    """Write `directory/report.html` with every answer in the directory.

    The answers may be written by other people: the page only includes files of this directory, and their text is
    escaped. Pictures are embedded, so the page is a single file.

    Args:
        directory: the directory given to `flowvae compare --out`.

    Returns:
        The path of the page.

    Raises:
        FlowvaeError: if there is no answer in the directory, or one is damaged or names files outside the directory.
    """
    import jinja2

    directory = as_path(directory)
    places = sorted(path.parent for path in directory.glob("*/answer.json"))
    if not places:
        raise FlowvaeError(f"{directory}: no answer in it; run `flowvae compare QUESTION --out {directory}`.")
    sections = [_read(directory, place) for place in places]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["figure"] = _figure
    template = environment.from_string(files("flowvae.comparisons.engine").joinpath("report.html").read_text())
    page = directory / "report.html"
    with atomic_write(page) as temporary:
        temporary.write_text(template.render(sections=sections, labels=_labels(sections)), encoding="utf-8")
    return page


def _read(root: Path, place: Path) -> _Section:
    import pandas as pd

    try:
        protocol = _protocol(inside(root, place / "answer.json"))
        measures = [check_name("measure", name) for name in (protocol["measure"], *protocol["secondary"])]
        arms = [check_name("arm", name) for name in protocol["arms"]]
        texts = {"arm": str, "cell": str}
        table = pd.read_csv(inside(root, place / "table.csv"), dtype=texts)
        failed = pd.read_csv(inside(root, place / "failed.csv"), dtype=texts)
        failed[["arm", "seed", "error"]]  # columns that the page needs
        found = {name: place / f"differences-{name}.csv" for name in measures}
        differences = {name: pd.read_csv(inside(root, file)) for name, file in found.items() if file.is_file()}
        means = summarize(table, measures)
        settings = {name: yaml.safe_dump(protocol["arms"][name], sort_keys=False) for name in arms}
    except FlowvaeError as error:
        raise FlowvaeError(f"{place}: {error}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise FlowvaeError(
            f"{place}: damaged or from another version ({one_line(error)}); run its comparison again."
        ) from None
    pictures = [
        (_title(file.stem), _alternative(file.stem, protocol), _uri(root, file))
        for file in sorted(place.glob("*.png"), key=lambda file: (file.stem != "differences", file.stem))
    ]
    samples = [
        (name, _uri(root, file)) for name in ("data", *arms) if (file := place / "samples" / f"{name}.png").is_file()
    ]
    runs = table.drop(columns="protocol", errors="ignore")  # shown above the tables
    return _Section(protocol, means, differences, runs, failed, pictures, samples, settings)


def _labels(sections: list[_Section]) -> list[str]:
    """Name of the data of each section, with their preprocessing where the page has the same data in another form."""
    forms: dict[str, set[str]] = {}
    data = [(section.protocol["data"], section.protocol["identity"]["preprocessing"]) for section in sections]
    for name, form in data:
        forms.setdefault(name, set()).add(form)
    return [name if len(forms[name]) == 1 else f"{name}: {form}" for name, form in data]


def _protocol(file: Path) -> dict[str, Any]:
    """Read answer.json.

    Raises:
        ValueError: if an entry is missing or invalid.
    """
    protocol = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(protocol, dict):
        raise ValueError("answer.json is not a mapping")
    for name, kind in _KINDS.items():
        if not isinstance(protocol[name], kind):
            raise ValueError(f"{name} = {shown(protocol[name])} in answer.json")
    if not all(isinstance(sentence, str) for sentence in protocol["sentences"]):
        raise ValueError("sentences in answer.json are not text")
    protocol["identity"]["preprocessing"], protocol["identity"]["split"]  # raise KeyError if they are missing
    return protocol


def _title(stem: str) -> str:
    return stem.replace("-", " ").capitalize()


def _alternative(stem: str, protocol: dict[str, Any]) -> str:
    if stem == "differences":
        return "Paired differences with 95 % intervals. " + " ".join(protocol["sentences"])
    if stem == "priors":
        return f"Priors of the arms and the codes of test data, first seed on {protocol['data']}."
    return f"{_title(stem)} on {protocol['data']}: the mean over seeds as lines, every seed as a dot."


def _uri(root: Path, file: Path) -> str:
    """Encode a picture as a data URI."""
    content = inside(root, file).read_bytes()
    if not content.startswith(b"\x89PNG\r\n"):
        raise FlowvaeError(f"{file}: is not a PNG picture; run its comparison again.")
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _figure(value: object) -> str:
    """Format a table entry: small p in scientific notation, other floats with three decimals."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.1e}" if 0 < abs(value) < 0.001 else f"{value:.3f}"
