"""Model cards: descriptions of exported runs in Markdown, with the front matter of model hubs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from platform import python_version
from typing import TYPE_CHECKING, Any

import torch
import yaml

from flowvae.core.errors import FlowvaeError, one_line, shown
from flowvae.core.parts import Units
from flowvae.core.registry import Spec, name_of
from flowvae.core.seeds import seeded
from flowvae.experiments.assemble import assemble
from flowvae.inference import Training

if TYPE_CHECKING:
    from flowvae.evaluation import Metric
    from flowvae.experiments.experiment import Experiment
    from flowvae.experiments.portable import Exported

__all__ = ["UNKNOWN", "check_licence", "is_card", "model_card", "opening"]

LIBRARY = "flowvae"
PACKAGES = ("torch", "pyro-ppl", "zuko")
TAGS = ("variational-autoencoder", "normalizing-flows", "generative-model", "pyro", "zuko")
UNKNOWN = "unknown"  # a hub's word for a licence that is not stated
LONGEST = 100  # characters of a setting in a table


def check_licence(licence: str) -> str:
    """Return a licence, after checking that it is one line of text.

    Raises:
        FlowvaeError: if it is not.
    """
    if not isinstance(licence, str) or not licence.strip() or not licence.isprintable() or len(licence) > LONGEST:
        raise FlowvaeError(f"licence = {shown(licence)}: must be one line, such as mit, cc-by-4.0 or {UNKNOWN}.")
    return licence.strip()


def is_card(text: str) -> bool:
    """Whether a text is a model card written by this package."""
    front = text.partition("\n---\n")[0]
    return text.startswith("---\n") and f"\nlibrary_name: {LIBRARY}\n" in f"{front}\n"


def opening(exported: Exported, call: str) -> str:
    """Return code that opens an exported run and draws from it.

    Args:
        exported: the run.
        call: expression that opens the run, such as `flowvae.load("model.safetensors")`.
    """
    run = exported.run
    modules = sorted(set(_own_modules(run.experiment)))
    lines = [f"import {LIBRARY}", *(f"import {module}  # defines its parts" for module in modules), ""]
    if run.signature.dtype != "float32":
        lines = ["import torch", *lines, f"torch.set_default_dtype(torch.{run.signature.dtype})"]
    lines.append(f"run = {call}  # opens without its data")
    condition = run.experiment.condition
    if condition is None:
        lines.append("x = run.sample(16)  # E[x | z] for z from the prior; of='draws' for draws of x")
    elif condition.on == "labels":
        label = run.signature.classes[0] if run.signature.classes else 0
        lines.append(f"x = run.sample(16, {label!r})  # E[x | z, c] for one label; of='draws' for draws of x")
    lines.append(
        "print(run.parameters, *run.metrics, sep='\\n')  # run.encode, reconstruct, log_prob: for your own data"
    )
    return "\n".join(lines)


def model_card(exported: Exported, title: str, code: str, licence: str = UNKNOWN) -> str:
    """Return the model card of an exported run: Markdown with YAML front matter.

    Args:
        exported: the run.
        title: heading of the card.
        code: code that opens the run, from `opening`.
        licence: licence of the weights, as hubs name it, such as "mit".
    """
    run, title = exported.run, one_line(title)
    front = yaml.safe_dump(_front(exported, title, check_licence(licence)), sort_keys=False, allow_unicode=True)
    data = run.identity
    parts = [
        f"---\n{front}---\n\n# {title}",
        f"A variational autoencoder of {data['name']}, trained with {LIBRARY}. The file holds settings, weights, "
        "measures and the training history, but not the data.",
        f"## How to open it\n\n```python\n{code}\n```\n\nIt needs `{LIBRARY}`. The weights are safetensors with a "
        "checksum; nothing is unpickled.",
        "## Data\n\n" + _table(("", ""), _data_rows(exported)),
        "## Model\n\n" + _table(("part", "settings"), _part_rows(exported)),
        *_measures(exported),
        "## Training\n\n" + _table(("", ""), _training_rows(exported)),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in _limits(exported)),
        "## Versions\n\n" + ", ".join(f"{name} {number}" for name, number in _versions().items()) + " wrote this file.",
        f"## Licence\n\n{licence if licence != UNKNOWN else 'Not stated. Ask who published the file.'}",
    ]
    return "\n\n".join(parts) + "\n"


def _front(exported: Exported, title: str, licence: str) -> dict[str, Any]:
    """Return the front matter; its model index has the measures without a caution."""
    task = "unconditional-image-generation" if _is_unconditional_image(exported) else "density-estimation"
    groups: dict[str, list[Metric]] = {}
    for metric in (metric for metric in exported.metrics if metric.caution is None):
        groups.setdefault(_measured_on(exported, metric.split), []).append(metric)
    front: dict[str, Any] = {"library_name": LIBRARY, "license": licence, "tags": list(TAGS)}
    if _is_unconditional_image(exported):
        front["pipeline_tag"] = task
    if not groups:
        return front
    identity = exported.run.identity
    results = [
        {
            "task": {"type": task},
            "dataset": {
                "name": f"{identity['name']} ({identity['preprocessing']})",
                "type": identity["name"],
                "split": split,
                "revision": identity["sha256"],
            },
            "metrics": [
                {"type": metric.name, "value": metric.value, "name": f"{metric.name}, {_how(metric)}"}
                for metric in metrics
            ],
        }
        for split, metrics in groups.items()
    ]
    return {**front, "model-index": [{"name": title, "results": results}]}


def _is_unconditional_image(exported: Exported) -> bool:
    run = exported.run
    return run.experiment.condition is None and len(run.signature.shape) == 3 and run.signature.shape[0] in (1, 3)


def _how(metric: Metric) -> str:
    """Format unit and K of a metric."""
    draws = metric.protocol.get("draws")
    return metric.unit if draws is None else f"{metric.unit}, K = {draws}"


def _measured_on(exported: Exported, split: str) -> str:
    """Return the split that was measured; "valid" if validation data are used as test data."""
    return "valid" if split == "test" and "valid used as test" in exported.run.identity["split"] else split


def _data_rows(exported: Exported) -> list[tuple[str, str]]:
    run = exported.run
    identity, signature = run.identity, run.signature
    rows = [
        ("name", identity["name"]),
        ("preprocessing", identity["preprocessing"]),
        ("split", identity["split"]),
        ("checksum (sha256)", identity["sha256"]),
        ("shape of a data point", " × ".join(map(str, signature.shape))),
        ("likelihood", signature.likelihood),
    ]
    if signature.classes:
        rows.append(("classes", one_line(", ".join(signature.classes))))
    return rows


def _part_rows(exported: Exported) -> list[tuple[str, str]]:
    run = exported.run
    experiment = run.experiment
    shape = " × ".join(map(str, experiment.latent_shape))
    named = ("prior", "guide", "encoder", "decoder", "condition")
    rows = [("latent", shape), *((name, _part(getattr(experiment, name))) for name in named)]
    if experiment.second_stage is not None:
        rows.insert(2, ("prior of the second stage", _part(experiment.second_stage.prior)))
    return [(name, text) for name, text in rows if text] + [("parameters", f"{_parameters(exported):,}")]


def _part(part: Any) -> str:
    if part is None:
        return ""
    name = f"`{name_of(part)}`: " if isinstance(part, Spec) else ""
    return f"{name}{shown(part, 2 * LONGEST)}"


def _parameters(exported: Exported) -> int:
    return sum(p.numel() for part in exported.run.pair for p in part.parameters())


def _measures(exported: Exported) -> Iterator[str]:
    """Return one section per split, since metrics of two splits must not share a table."""
    for split in dict.fromkeys(metric.split for metric in exported.metrics):
        rows = []
        for metric in exported.metrics:
            if metric.split == split:
                se = "" if metric.se is None else f"{metric.se:.3g}"
                draws, count = (str(metric.protocol.get(name, "")) for name in ("draws", "rows"))
                rows.append((metric.name, f"{metric.value:.6g}", se, metric.unit, draws, count, metric.caution or ""))
        heading = f"## Measures on {_measured_on(exported, split)} data"
        identity = exported.run.identity
        about = f"{identity['name']}: {identity['preprocessing']}; ± is over data points."
        yield f"{heading}\n\n{about}\n\n" + _table(
            ("measure", "value", "±", "unit", "K", "data points", "caution"), rows
        )


def _training_rows(exported: Exported) -> list[tuple[str, str]]:
    experiment, histories = exported.run.experiment, exported.histories
    seconds = sum(float(history["seconds"].sum()) for history in histories)
    rows = [("epochs taken", " + ".join(str(len(history)) for history in histories))]
    rows += [("time", f"{seconds / 3600:.2g} hours"), ("seed", str(experiment.seed))]
    stages: list[tuple[str, Training]] = [("settings", experiment.inference)]
    if experiment.second_stage is not None:
        stages.append(("settings of the second stage", experiment.second_stage.inference))
    return [*rows, *((name, ", ".join(_training(training))) for name, training in stages)]


def _training(training: Training) -> Iterator[str]:
    """Format the settings of a training, without those of the machine."""
    for name, value in training.as_dict().items():
        text = value["family"] if isinstance(value, Mapping) else value
        yield f"{name} {text}"


def _limits(exported: Exported) -> list[str]:
    run = exported.run
    names = {metric.name for metric in exported.metrics}
    limits = []
    if "nll" in names:
        limits.append(
            "`nll` is an importance-sampling estimate by K draws of the guide: in expectation an upper bound of "
            "−log p(x), which falls as K grows. Compare it only at equal K, data and split."
        )
    if "elbo" in names:
        limits.append(
            "`elbo` is a lower bound of log p(x), lower by the KL divergence of the guide from the posterior."
        )
    if not run.signature.spec.discrete:
        limits.append("log p(x) is a density: it depends on the units of the data, and is not a code length.")
    if "valid used as test" in run.identity["split"]:
        limits.append("There were no test data: the measures are of validation data, which also stopped the training.")
    limits += [f"{metric.name} ({metric.split}): {metric.caution}." for metric in exported.metrics if metric.caution]
    limits += _warnings(exported)
    if "__main__" in set(_own_modules(run.experiment)):
        limits.append("Parts of it were defined in a script or notebook; define them before opening the file.")
    limits.append(
        "Likelihoods of data unlike the training data say little: they can be higher than those of the training data "
        "(Nalisnick et al. 2019)."
    )
    return limits


def _warnings(exported: Exported) -> list[str]:
    """Return the warnings that building the model gives, as they were given in training."""
    run = exported.run
    state = run.pair.guide.state_dict()
    units = Units(state["encoder.0.center"].cpu(), state["encoder.0.unit"].cpu())
    train = torch.zeros(1).expand(run.signature.rows, *run.signature.shape)
    with warnings.catch_warnings(record=True) as caught, seeded(0):
        warnings.simplefilter("always")
        assemble(run.experiment, run.signature, units, train)
    return list(dict.fromkeys(one_line(one.message) for one in caught))


def _own_modules(owner: Experiment | Any) -> Iterator[str]:
    """Yield the modules of parts that are defined by the user."""
    for f in fields(owner) if is_dataclass(owner) else ():
        value = getattr(owner, f.name)
        if is_dataclass(value) and not isinstance(value, type):
            module = type(value).__module__
            if module.partition(".")[0] != LIBRARY:
                yield module
            yield from _own_modules(value)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in (LIBRARY, *PACKAGES)} | {"Python": python_version()}


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Format a Markdown table."""
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: str) -> str:
    return one_line(value, 600).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
