"""Commands on a trained run: `flowvae evaluate`, `sample`, `encode` and `export`."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from flowvae.cli.parse import parse
from flowvae.core.errors import FlowvaeError, shown, shown_path
from flowvae.core.files import as_path, atomic_write
from flowvae.data import Dataset
from flowvae.data.files.reading import read_arrays
from flowvae.evaluation import MEASURES, Effort, draw_figures, plot_samples, write_figure
from flowvae.evaluation.figures.images import is_image, range_of
from flowvae.evaluation.figures.panels import Panel, columns_within, draw_panels
from flowvae.experiments.run import MeasurementError, Run, load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Encode",
    "Evaluate",
    "Export",
    "Sample",
    "encode_command",
    "evaluate_command",
    "export_command",
    "sample_command",
]

ARRAY = "write one with np.save(PATH, ARRAY)."
PICTURES = 64  # in a grid


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained run: ELBO and NLL, or other measures by name; results are added to metrics.json.

    Args:
        run: directory of the run.
        measures: all, or names of the measures above.
        split: train, valid or test.
        draws: draws per data point for the NLL.
        seed: seed of all measures.
        compile: capture, inductor or none: how NLL and IWAE bound are computed; inductor pays off from some thousand
            data points on.
        effort: computational effort of iwae, gaps and bdmc.
        figures: also draw the figures of the run and of the measures.
    """

    run: tyro.conf.Positional[Path]
    measures: tuple[str, ...] = ("likelihood",)
    split: str = "test"
    draws: int = 1000
    seed: int = 0
    compile: str = "capture"
    effort: Effort = field(default_factory=Effort)
    figures: bool = False


@dataclass(frozen=True)
class Sample:
    """Draw new data from a trained run, as a picture (.png) or as arrays (.npz): mean, E[x | z], and x, draws of x.

    Args:
        run: directory of the run, or an exported file.
        out: file to write, .png or .npz; by default samples.png in the run.
        count: number of draws; by default 64, or one for each row of --condition.
        label: the class to draw from a model conditioned on labels, as a number or a name.
        condition: a .npy with labels (N,) or covariates (N, C), one row per draw.
        seed: seed of the draws.
    """

    run: tyro.conf.Positional[Path]
    out: Path | None = None
    count: int | None = None
    label: str | None = None
    condition: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Encode:
    """Write the codes of new data: the mean of q(z | x) of each data point, or draws from it.

    Args:
        run: directory of the run, or an exported file.
        data: a .npy with data (N, *event shape), in the units of the training data.
        codes: the .npy to write, shape (N, *latent), or (draws, N, *latent).
        draws: number of draws per data point; by default the mean is written.
        label: the class of all data points, for a model conditioned on labels.
        condition: a .npy with labels (N,) or covariates (N, C).
        seed: seed of the draws.
    """

    run: tyro.conf.Positional[Path]
    data: tyro.conf.Positional[Path]
    codes: tyro.conf.Positional[Path]
    draws: int | None = None
    label: str | None = None
    condition: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Export:
    """Write a run without its data to one file, which flowvae.load(FILE) opens on any machine.

    A model card is written beside it, as NAME.md.

    Args:
        run: directory of the run.
        file: the file to write, NAME.safetensors.
        licence: licence of the weights, for the card, such as mit or cc-by-4.0.
    """

    run: tyro.conf.Positional[Path]
    file: tyro.conf.Positional[Path]
    licence: str = "unknown"


def evaluate_command(words: list[str]) -> int:
    """Compute measures of a run."""
    args = parse(Evaluate, words, "evaluate", description=_describe_measures())
    run = load(args.run)
    measures = tuple(MEASURES) if args.measures == ("all",) else args.measures
    how = {"split": args.split, "draws": args.draws, "seed": args.seed, "compile": args.compile, "effort": args.effort}
    failed = None
    try:
        taken = run.evaluate(measures=measures, figures=args.figures, **how)
    except MeasurementError as error:
        failed, taken = error, error.taken
    for metric in taken:
        print(metric)
    if args.figures and run.directory is not None:
        place = run.directory / "figures"
        draw_figures(run.pair.model, run.pair.guide, run.data, run.history, place, args.seed, True, run.objective)
    if failed:
        raise failed
    return 0


def sample_command(words: list[str]) -> int:
    """Draw new data from a run."""
    args = parse(Sample, words, "sample")
    folder = args.run if args.run.is_dir() else args.run.parent
    out = as_path(args.out) if args.out else folder / "samples.png"
    if out.suffix not in (".png", ".npz"):
        raise FlowvaeError(f"--out {shown_path(out)}: must end in .png (a picture) or .npz (arrays).")
    if args.count is not None and args.count < 1:
        raise FlowvaeError(f"--count {args.count}: must be 1 or more.")
    run = load(args.run)
    own = args.count, args.label, args.condition
    if out.suffix == ".png" and own == (None, None, None) and run.directory is not None and (data := _data(run)):
        write_figure(plot_samples(run.pair.model, data, args.seed), out)  # beside test data, given their conditions
        print(out)
        return 0
    c = _condition(run, args.label, args.condition, ("prior", "decoder"))
    count = None if isinstance(c, np.ndarray) and args.count is None else args.count or PICTURES
    if out.suffix == ".png":
        if not is_image(run.signature.shape):
            raise FlowvaeError(
                f"--out {shown_path(out)}: data points of shape {run.signature.shape} are not images; write an .npz."
            )
        write_figure(_images(run, torch.as_tensor(run.sample(count, c, seed=args.seed))), out)
    else:
        # the same seed gives the same codes
        mean, x = (_array(run.sample(count, c, of=of, seed=args.seed)) for of in ("means", "draws"))
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(out) as temporary, temporary.open("wb") as file:
            np.savez(file, mean=mean, x=x)
    print(out)
    return 0


def encode_command(words: list[str]) -> int:
    """Write the codes of new data."""
    args = parse(Encode, words, "encode")
    if args.codes.suffix != ".npy":
        raise FlowvaeError(f"{shown_path(args.codes)}: must end in .npy, the file to write.")
    x = _read(args.data)
    run = load(args.run)
    if x.ndim == 3 and len(run.signature.shape) == 3 and run.signature.shape[0] == 1:
        x = x[:, None]  # grey images, as a file of training data may hold them
    c = _condition(run, args.label, args.condition, ("encoder", "guide"))
    codes = _array(run.encode(x, c, args.draws, seed=args.seed))
    out = as_path(args.codes)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as temporary, temporary.open("wb") as file:
        np.save(file, codes)
    print(f"{out}: codes, shape {codes.shape}")
    return 0


def export_command(words: list[str]) -> int:
    """Write a run to one file."""
    from flowvae.experiments.export import export_run

    args = parse(Export, words, "export")
    file = export_run(args.run, args.file, args.licence)
    print(f"{file} and its model card, {file.with_suffix('.md').name}")
    return 0


def _describe_measures() -> str:
    """Return the description of `flowvae evaluate`, with one line per registered measure."""
    about = inspect.cleandoc(Evaluate.__doc__ or "").partition("\n\nArgs:")[0]
    lines = [f"{name}: {(measure.__doc__ or '').partition(chr(10))[0]}" for name, measure in MEASURES.items()]
    return "\n\n".join([about, *lines])


def _data(run: Run) -> Dataset | None:
    """Return the data of a run; if they cannot be loaded, print a note and return None."""
    try:
        return run.data
    except FlowvaeError:
        print(f"flowvae: {run.name}: its data cannot be loaded, so the picture has no test data.", file=sys.stderr)
        return None


def _condition(run: Run, label: str | None, file: Path | None, readers: tuple[str, str]) -> Any:
    """Return the condition: a label as a number or a name, or the array in a file; None if there is none.

    Args:
        run: the run.
        label: the value of --label.
        file: the value of --condition.
        readers: parts of the model that need the condition, if they read one.

    Raises:
        FlowvaeError: for both arguments, and for none of them if one of these parts reads a condition.
    """
    if label is not None and file is not None:
        raise FlowvaeError(f"--label {shown(label)} with --condition {shown_path(file)}: give one of them.")
    if file is not None:
        return _read(file)
    condition = run.experiment.condition
    if label is None and condition is not None and any(getattr(condition, reader) for reader in readers):
        raise FlowvaeError(f"{run.name}: is a conditional model; name a --label, or a --condition FILE.npy.")
    if label is None or label in run.signature.classes or not label.isdecimal():
        return label
    return int(label[:9])  # longer numbers are not classes


def _read(path: Path) -> NDArray[Any]:
    """Read the array in a .npy."""
    where = shown_path(path)
    arrays = read_arrays(where, as_path(path), ARRAY, "array")
    if list(arrays) != ["array"]:
        raise FlowvaeError(f"{where}: is an archive of several arrays; {ARRAY}")
    return arrays["array"]


def _array(x: Any) -> NDArray[Any]:
    """Convert a tensor to an array; return an array unchanged."""
    array: NDArray[Any] = x.numpy(force=True) if isinstance(x, torch.Tensor) else x
    return array


def _images(run: Run, x: torch.Tensor) -> Figure:
    """Draw images (N, C, H, W) in a grid."""
    most = min(columns_within(x.shape[1:]), len(x))
    columns = min(range(most, most // 2, -1), key=lambda columns: -len(x) % columns)  # with full rows, if possible
    return draw_panels([Panel(x, columns)], range_of(run.signature.spec, x))[0]
