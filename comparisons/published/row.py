"""Rows: the figure of a reproduced experiment, the published figures, and everything that it depends on."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from flowvae.comparisons.published.provenance import Provenance
from flowvae.comparisons.published.recipe import MARKS, MEASURES, Measure, Published, Recipe
from flowvae.evaluation import Metric
from flowvae.experiments.run import Run

__all__ = ["Row", "format_row", "make_row", "read_metric", "why_not_comparable"]

WIDTH = 100  # columns of printed text


@dataclass(frozen=True)
class Row:
    """The measured figure of a recipe and the published figures.

    Args:
        recipe: name of the recipe.
        title: the model.
        source: the paper.
        protocol: protocol of the published figures.
        published: figure, model, mark and its meaning, of each published figure.
        value: mean over seeds.
        se_seeds: standard error over seeds; None for one seed.
        se_data: standard error over the data points of the split, averaged over the seeds, which share the test data.
        unit: unit of the figure.
        measure: name of the measure.
        draws: K.
        split: the measured split: "test", or "valid" if the data have no test images.
        rows: number of data points of the split.
        data: identities of the data, one per seed.
        not_comparable: reasons why it must not be compared with the published figures; empty: it may be compared.
        differs: differences of model and training from the paper.
        cautions: cautions of the measures.
        seeds: seeds of the runs.
        values: figure of each seed.
        epochs: number of epochs of each seed.
        hours: training time of all seeds together.
        parameters: number of parameters of model and guide.
        command: command that repeats it.
        provenance: provenance of the trainings, without duplicates.
        trial: reason why it is only a trial, such as fewer epochs; empty: it is a result.
        by: who ran it.
        date: date of the row, year-month-day.
    """

    recipe: str
    title: str
    source: str
    protocol: str
    published: tuple[dict[str, Any], ...]
    value: float
    se_seeds: float | None
    se_data: float | None
    unit: str
    measure: str
    draws: int
    split: str
    rows: int
    data: tuple[dict[str, str], ...]
    not_comparable: tuple[str, ...]
    differs: tuple[str, ...]
    cautions: tuple[str, ...]
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    epochs: tuple[int, ...]
    hours: float
    parameters: int
    command: str
    provenance: tuple[dict[str, Any], ...]
    trial: str
    by: str
    date: str

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Row:
        """Create a row from the result of `dataclasses.asdict`, read from JSON.

        Raises:
            TypeError: for missing or unknown entries.
        """
        if not isinstance(plain, dict) or plain.keys() != {f.name for f in fields(cls)}:
            raise TypeError("its entries are not those of a row")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
        }
        row = cls(**values)
        format_row(row)  # raises an error for values of other types
        return row

    @property
    def figure(self) -> str:
        """Value ± standard errors."""
        over = [(self.se_seeds, "seeds"), (self.se_data, "data")]
        return f"{self.value:.2f}" + "".join(f" ± {se:.2f} ({name})" for se, name in over if se is not None)

    @property
    def how(self) -> str:
        """Measure, unit, K and split."""
        return f"{self.measure} in {self.unit}, K = {self.draws}, {self.rows} {self.split} images"

    @property
    def machines(self) -> list[str]:
        """Machines of the trainings."""
        return [*dict.fromkeys(Provenance(**one).machine for one in self.provenance)] or ["not known"]

    @property
    def code(self) -> list[str]:
        """Versions of the code of the trainings."""
        return [*dict.fromkeys(Provenance(**one).code for one in self.provenance)] or ["not known"]


def read_metric(run: Run, measure: Measure, split: str = "test") -> Metric:
    """Return the figure of a run as a metric with sign and unit of the measure.

    Raises:
        FlowvaeError: if it has not been measured.
    """
    metric = run.metric(measure.metric, split)
    scale = 1 / (math.prod(run.signature.shape) * math.log(2)) if measure.per_dimension else 1.0
    se = None if metric.se is None else metric.se * scale
    return Metric(
        measure.title, measure.factor * metric.value * scale, se, measure.unit, split, metric.protocol, metric.caution
    )


def why_not_comparable(recipe: Recipe, metrics: Sequence[Metric], on_valid: bool) -> list[str]:
    """Return the reasons why figures must not be compared with those of a recipe; empty if they share its protocol.

    Args:
        recipe: the recipe.
        metrics: the figure of each seed.
        on_valid: whether validation images were measured, since the data have no test images.
    """
    protocol, reasons = recipe.protocol, [*recipe.unlike]
    if on_valid:
        reasons.append("measured on valid, which stopped the training; published on test")
    for prepared in dict.fromkeys(metric.protocol["data"]["preprocessing"] for metric in metrics):
        if protocol.preprocessing not in prepared:
            reasons.append(f"data prepared otherwise ({prepared}); published on {protocol.data}")
    for rows in dict.fromkeys(metric.protocol["rows"] for metric in metrics):
        if rows != protocol.test:
            reasons.append(f"measured on {rows} images; published on {protocol.test}")
    if MEASURES[protocol.measure].draws:
        for draws in dict.fromkeys(metric.protocol["draws"] for metric in metrics):
            if draws != protocol.draws:
                reasons.append(f"measured with K = {draws}; published with K = {protocol.draws}")
    return reasons


def make_row(
    recipe: Recipe,
    runs: dict[int, Run],
    *,
    on_valid: bool,
    provenance: Iterable[Provenance],
    command: str,
    trial: str = "",
    by: str = "",
    date: str = "",
) -> Row:
    """Create the row of finished runs.

    Args:
        recipe: the recipe that they repeat.
        runs: the runs by seed.
        on_valid: whether validation images were measured, since the data have no test images.
        provenance: provenance of the trainings.
        command: command that repeats them.
        trial: reason why they are only a trial; empty: they are a result.
        by: who ran them.
        date: year-month-day.
    """
    kind = MEASURES[recipe.protocol.measure]
    metrics = [read_metric(run, kind) for run in runs.values()]
    histories = [run.whole_history for run in runs.values()]
    values = [metric.value for metric in metrics]
    errors = [metric.se for metric in metrics if metric.se is not None]
    return Row(
        recipe=recipe.name,
        title=recipe.title,
        source=recipe.source,
        protocol=str(recipe.protocol),
        published=tuple(_published(figure) for figure in recipe.published),
        value=statistics.fmean(values),
        se_seeds=statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None,
        se_data=statistics.fmean(errors) if errors else None,
        unit=kind.unit,
        measure=kind.title,
        draws=metrics[0].protocol["draws"],
        split="valid" if on_valid else "test",
        rows=metrics[0].protocol["rows"],
        data=tuple(metric.protocol["data"] for metric in metrics),
        not_comparable=(*why_not_comparable(recipe, metrics, on_valid), *([f"a trial, {trial}"] if trial else [])),
        differs=recipe.differs,
        cautions=tuple(f"seed {seed}: {one.caution}" for seed, one in zip(runs, metrics, strict=True) if one.caution),
        seeds=tuple(runs),
        values=tuple(values),
        epochs=tuple(len(history) for history in histories),
        hours=sum(float(history["seconds"].sum()) for history in histories) / 3600,
        parameters=next(iter(runs.values())).parameters,
        command=command,
        provenance=tuple({one.code + one.machine: one.as_dict() for one in provenance}.values()),
        trial=trial,
        by=by,
        date=date,
    )


def _published(figure: Published) -> dict[str, Any]:
    return {
        "value": figure.value,
        "spread": figure.spread,
        "model": figure.model,
        "mark": figure.mark,
        "meaning": MARKS[figure.mark],
    }


def format_row(row: Row) -> str:
    """Format a row as text, at most 100 columns wide, with the protocols of all figures."""
    data = row.data[0]
    checksums = ", ".join(dict.fromkeys(one["sha256"] for one in row.data))
    entries = [
        ("published", f"{row.source}: {row.protocol}"),
        *(("", f"{_with_mark(figure)}  {figure['model']}") for figure in row.published),
        *(("", f"{mark} {meaning}") for mark, meaning in _marks(row).items()),
        ("here", f"{row.figure}  {row.how}"),
        ("", _difference(row)),
        *(("", f"caution: {caution}") for caution in row.cautions),
        *_lines("differs", row.differs),
        ("data", f"{data['name']}: {data['preprocessing']}; {data['split']}; sha256 {checksums}"),
        (
            "seeds",
            ", ".join(
                f"{seed}: {value:.2f} ({epochs} epochs)"
                for seed, value, epochs in zip(row.seeds, row.values, row.epochs, strict=True)
            ),
        ),
        ("trained", f"{row.hours:.2g} hours in all, {row.parameters:,} parameters"),
        *_lines("machine", row.machines),
        *_lines("code", row.code),
        ("command", row.command),
        *([("by", f"{row.by}, {row.date}".strip(", "))] if row.by or row.date else []),
    ]
    heading = f"{row.recipe}: {row.title}" + (f" (trial: {row.trial})" if row.trial else "")
    lines = [*textwrap.wrap(heading, WIDTH), ""]
    for name, text in entries:
        lines += textwrap.wrap(text, WIDTH, initial_indent=f"{name:11}", subsequent_indent=" " * 13)
    return "\n".join(lines)


def _lines(name: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return lines of text, the first with a name."""
    return [(name if index == 0 else "", text) for index, text in enumerate(texts)]


def _difference(row: Row) -> str:
    """Format the difference from the first published figure, or the reasons why they are not comparable."""
    if row.not_comparable:
        return f"not comparable: {'; '.join(row.not_comparable)}"
    first = row.published[0]
    return f"{row.value - first['value']:+.2f} {row.unit} beside {_with_mark(first)} ({first['model']})"


def _with_mark(figure: dict[str, Any]) -> str:
    return str(Published(figure["value"], figure["model"], figure["mark"], figure["spread"]))


def _marks(row: Row) -> dict[str, str]:
    """Return the marks of the published figures with their meanings."""
    return {figure["mark"]: figure["meaning"] for figure in row.published if figure["mark"]}
