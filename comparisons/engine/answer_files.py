"""The files of an answer: tables, figures, a Markdown page, and JSON for reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any

import torch

from flowvae.comparisons.engine.plan import Plan
from flowvae.comparisons.engine.plots import plot_differences
from flowvae.comparisons.engine.statistics import LEVEL, MARGIN, summarize
from flowvae.core.files import atomic_write, is_temporary, write_table
from flowvae.core.seeds import derive, seeded
from flowvae.data import batch_of
from flowvae.evaluation import image_grid, is_image, value_range, write_figure
from flowvae.experiments.run import Run, load

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["delete_earlier", "write_answer"]

PACKAGES = ("torch", "pyro-ppl", "zuko")  # packages whose version can change results
SHARP = 4  # magnification of images in pictures of samples
SAMPLES = 25  # per picture, 5 in a row


def write_answer(
    plan: Plan, table: pd.DataFrame, differences: Mapping[str, pd.DataFrame], sentences: list[str]
) -> None:
    """Write all files except the tables of cells; answer.json is last, so it exists only if the answer is complete."""
    for measure, frame in differences.items():
        write_table(plan.place / f"differences-{measure}.csv", frame)
    first_seed = table[table["seed"] == plan.seeds[0]]
    runs = {row["arm"]: load(plan.cells / row["cell"], plan.arms[row["arm"]].data) for _, row in first_seed.iterrows()}
    protocol = _protocol(plan, sentences)
    protocol["figures"] = _draw(plan, table, differences, runs, protocol["split"])
    _write_samples(plan.place / "samples", runs)
    means = summarize(table, (plan.question.measure, *plan.question.secondary))
    with atomic_write(plan.place / "answer.md") as temporary:
        temporary.write_text(_markdown(protocol, means, differences), encoding="utf-8")
    with atomic_write(plan.place / "answer.json") as temporary:
        temporary.write_text(json.dumps(protocol, indent=2) + "\n")


def delete_earlier(place: Path) -> None:
    """Delete the files of an earlier answer, and no others; answer.json, which lists them, is last.

    Paths in answer.json that lead to other folders are ignored.
    """
    try:
        earlier = json.loads((place / "answer.json").read_text(encoding="utf-8"))
        figures = [str(name) for name in earlier.get("figures", [])]
        samples = ["data", *map(str, earlier["arms"])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        figures, samples = [], []
    names = [*(f"{name}.png" for name in figures), "failed.csv", "table.csv", "answer.md", "answer.json"]
    files = [*place.glob("differences*.csv"), *place.glob("differences*.png")]
    files += [place / "samples" / f"{name}.png" for name in samples if Path(name).name == name]
    files += [place / name for name in names if Path(name).name == name]
    files = [*(path for path in place.rglob(".*.tmp") if is_temporary(path)), *files]  # left by a killed process
    for file in files:
        file.unlink(missing_ok=True)


def _protocol(plan: Plan, sentences: list[str]) -> dict[str, Any]:
    """Return the protocol of an answer: question, settings, data and results."""
    question, data = plan.question, plan.data
    return {
        "question": question.name,
        "asks": question.asks,
        "predicts": question.predicts,
        "data": plan.data_name,
        "preset": plan.preset_name,
        "seeds": list(plan.seeds),
        "draws": plan.preset.draws,
        "effort": plan.preset.effort.as_dict(),
        "measure": question.measure,
        "secondary": list(question.secondary),
        "unit": question.unit,
        "lower_is_better": question.lower_is_better,
        "split": "validation" if data.test is data.valid else "test",
        "identity": data.identity.as_dict(),
        "level": LEVEL,
        "margin": MARGIN,
        "sentences": sentences,
        "arms": {name: experiment.to_dict() for name, experiment in plan.arms.items()},
        "flowvae": version("flowvae"),
        "versions": {"Python": python_version(), **{name: version(name) for name in PACKAGES}},
    }


def _draw(
    plan: Plan, table: pd.DataFrame, differences: Mapping[str, pd.DataFrame], runs: Mapping[str, Run], split: str
) -> list[str]:
    """Draw the primary differences and the question's own figures; return the names of the latter."""
    question = plan.question
    if question.measure in differences:
        figure = plot_differences(table, differences[question.measure], question, split)
        write_figure(figure, plan.place / "differences.png")
    figures = question.draw(runs, table) if question.draw else {}
    for name, figure in figures.items():
        write_figure(figure, plan.place / f"{name}.png")
    return list(figures)


def _markdown(protocol: dict[str, Any], means: pd.DataFrame, differences: Mapping[str, pd.DataFrame]) -> str:
    """Format the answer as a Markdown page."""
    parts = [
        f"# {protocol['asks']}",
        f"{protocol['question']} on {protocol['data']}, preset {protocol['preset']}, seeds "
        f"{', '.join(map(str, protocol['seeds']))}, NLL by K = {protocol['draws']} draws of the guide, flowvae "
        f"{protocol['flowvae']} ({', '.join(f'{name} {number}' for name, number in protocol['versions'].items())}). "
        f"Primary measure: {protocol['measure']}, {protocol['unit']}.",
        "Data of the first seed: preprocessing "
        f"{protocol['identity']['preprocessing']}; {protocol['identity']['split']}. "
        f"Measured on the {protocol['split']} data.",
        "\n".join(f"- {sentence}" for sentence in protocol["sentences"]),
        "Mean ± standard error over seeds:",
        means.to_markdown(index=False, disable_numparse=True),
    ]
    for measure, frame in differences.items():
        parts += [f"{measure}, paired over seeds:", frame.to_markdown(index=False, floatfmt=".3g")]
    return "\n\n".join(parts) + "\n"


def _write_samples(directory: Path, runs: Mapping[str, Run]) -> None:
    """Write pictures of test images and of E[x | z] for draws of z of each arm, with common random numbers.

    A conditional model generates for the conditions of the test images.
    """
    from matplotlib.image import imsave

    if not runs:
        return
    data = next(iter(runs.values())).data
    if not is_image(data.shape):
        return
    first = torch.arange(min(SAMPLES, len(data.test)))
    shown = {"data": data.test[first]}
    for name, run in runs.items():
        c = batch_of(data, run.experiment.condition, "test")[first].c
        with seeded(derive(run.experiment.seed, "samples")):
            _, shown[name] = run.pair.model.generate(SAMPLES) if c is None else run.pair.model.generate(c=c)
    directory.mkdir(exist_ok=True)
    for name, x in shown.items():
        with atomic_write(directory / f"{name}.png") as temporary:
            grid = image_grid(data.original(x).cpu(), value_range(data), 5, scale=SHARP)
            imsave(temporary, grid, format="png")
