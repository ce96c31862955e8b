"""The command line: `flowvae train | fit-prior | evaluate | …`, all from the same specs."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import sys
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

import numpy as np
import tyro

from flowvae.comparisons import QUESTIONS, answer, summarize, write_report
from flowvae.data import Digits, LikelihoodSpec, parse_likelihood
from flowvae.errors import FlowvaeError, SlowDirectionWarning, UnfinishedRunWarning, nearest
from flowvae.evaluation import MEASURES, draw_figures, plot_samples
from flowvae.experiment import Experiment, fit_prior, load
from flowvae.families import DATA, GUIDES, PRIORS, Row, table
from flowvae.flows import MAF
from flowvae.guides import Gaussian
from flowvae.inference import Inference, atomic_write
from flowvae.models import FlowDecoder, StandardNormal
from flowvae.networks import MLP
from flowvae.run import Run
from flowvae.second_stage import SecondStage
from flowvae.seeds import derive, seeded
from flowvae.words import arrange, take_option

__all__ = ["main"]

# what to do after an interruption, by command
GO_ON = {
    "train": "; go on from the last checkpoint with the same words and --resume",
    "fit-prior": "; go on from the last checkpoint with flowvae train --resume and the same --out",
    "evaluate": "; finished measures are in metrics.json, name the others to go on",
    "compare": "; finished cells are kept, the same command goes on with the others",
}

_LIKELIHOOD = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="bernoulli|binomial:TOTAL|gaussian[:SCALE]",
    instance_from_str=lambda words: parse_likelihood(words[0]),
    is_instance=lambda value: isinstance(value, LikelihoodSpec),
    str_from_instance=lambda value: [str(value)],
)


def _choice(families: dict[str, Any]) -> Any:
    """A sub-command for each family; an entry is a type, or a type with its default object."""
    members = []
    for name, entry in families.items():
        kind, default = entry if isinstance(entry, tuple) else (entry, tyro.MISSING)
        given = {} if default is tyro.MISSING else {"default": default}
        members.append(Annotated[kind, tyro.conf.subcommand(name, **given)])
    return Union[tuple(members)]  # noqa: UP007  (made from a list)


if TYPE_CHECKING:
    from typing import Any as DataChoice
    from typing import Any as GuideChoice
    from typing import Any as PriorChoice
else:
    DataChoice, PriorChoice, GuideChoice = _choice(DATA), _choice(PRIORS), _choice(GUIDES)


def _import(name: str) -> None:
    """Import a module of the user's, beside the working directory or installed; its flows become words."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if name.partition(".")[0] != (error.name or "").partition(".")[0]:
            raise
        raise FlowvaeError(
            f"--import {name}: no such module; name a file of this directory without its .py, or an installed module."
        ) from None
    globals().update(PriorChoice=_choice(PRIORS), GuideChoice=_choice(GUIDES))


@dataclass(frozen=True)
class _Train:
    """Train a VAE, measure it on the test split and draw figures, all into one directory.

    Parts are swapped by naming them at the end: data:NAME prior:NAME guide:NAME, each followed by its
    settings. `flowvae list` shows the names, `flowvae train prior:maf --help` the settings of one.

    Args:
        out: directory of the run.
        config: an experiment.yaml that the other arguments change; with --resume, the run's own.
        resume: go on with the interrupted run in --out.
        overwrite: delete an earlier run in --out.
        draws: draws a datum for the test NLL.
        latent: dimension of the code.
        seed: decides split, initial weights, order of batches and noise.
        encoder: trunk of the guide's network.
        decoder: network from code to data.
        inference: how to train.
        data: data set.
        prior: p(z).
        guide: q(z | x).
    """

    out: Path
    config: Path | None = None
    resume: bool = False
    overwrite: bool = False
    draws: int = 1000
    latent: int = 8
    seed: int = 0
    encoder: MLP = field(default_factory=MLP)
    decoder: MLP = field(default_factory=MLP)
    inference: Inference = field(default_factory=Inference)
    data: DataChoice = field(default_factory=Digits)
    prior: PriorChoice = field(default_factory=StandardNormal)
    guide: GuideChoice = field(default_factory=Gaussian)


@dataclass(frozen=True)
class _FitPrior:
    """Fit another prior to the codes of a finished run, its encoder and decoder frozen; the run is copied.

    The prior is named as in `flowvae train`: prior:NAME and its settings. An interrupted fit goes on with
    `flowvae train --resume --out OUT`.

    Args:
        run: directory of the run; named first.
        out: directory of the new run.
        fine_tune: train encoder, decoder and prior together afterwards.
        overwrite: delete an earlier run in --out.
        draws: draws a datum for the test NLL.
        inference: how to train; by default as the run was trained, without its annealing.
        prior: the second p(z).
    """

    run: tyro.conf.Positional[Path]
    out: Path
    fine_tune: bool = False
    overwrite: bool = False
    draws: int = 1000
    inference: Inference = field(default_factory=Inference)
    prior: PriorChoice = field(default_factory=MAF)


@dataclass(frozen=True)
class _Evaluate:
    """Measure a trained run: ELBO and NLL, or any other measures by name; all of them go into metrics.json.

    Args:
        run: directory of the run.
        measures: all, or names: likelihood, iwae, gaps, bdmc, surgery, held-out-codes, holes, mmd, classifier,
            activity, calibration, generation, memorization.
        split: train, valid or test.
        draws: draws a datum for the NLL.
        seed: of all measures.
        compile: none, capture or inductor: how NLL and IWAE bound are computed; inductor pays on thousands of data.
        figures: draw the figures of the run and of the measures too.
    """

    run: tyro.conf.Positional[Path]
    measures: tuple[str, ...] = ("likelihood",)
    split: str = "test"
    draws: int = 1000
    seed: int = 0
    compile: str = "none"
    figures: bool = False


@dataclass(frozen=True)
class _Sample:
    """Draw from a trained run: a picture (.png), or codes and data (.npz).

    Args:
        run: directory of the run.
        out: file to write, .png or .npz; by default samples.png in the run.
        count: how many draws of an .npz.
        seed: decides the draws.
    """

    run: tyro.conf.Positional[Path]
    out: Path | None = None
    count: int = 64
    seed: int = 0


@dataclass(frozen=True)
class _Compare:
    """Answer a question: run its arms over seeds, compare them in pairs, write tables and a figure.

    Cells that are done are not run again, so an interrupted comparison goes on with the same command, and questions
    that share --out share the runs that they have in common.

    Args:
        question: prior-flows, posterior-flows, prior-or-posterior, capacity, holes or kl-weight.
        out: directory of all cells and answers.
        data: a data set that the question is asked on; by default its first.
        path: the file of static-mnist; by default it is looked for in the working directory.
        preset: seconds (writes every file), minutes (shows how it works), hour (on two cores) or cluster.
        first_seed: the lowest seed.
        jobs: processes at a time, each with one thread.
        scheduler: address of a Dask scheduler whose workers run the cells, such as tcp://host:8786.
    """

    question: tyro.conf.Positional[str]
    out: Path = Path("comparisons-out")
    data: str | None = None
    path: Path | None = None
    preset: str = "minutes"
    first_seed: int = 0
    jobs: int = 1
    scheduler: str | None = None


@dataclass(frozen=True)
class _Report:
    """Write one HTML page of every comparison in a directory.

    Args:
        directory: the --out of `flowvae compare`.
    """

    directory: tyro.conf.Positional[Path]


@dataclass(frozen=True)
class _List:
    """List every family: its paper, what it may be, and what it costs in network passes.

    Args:
        json: print JSON.
        latent: the latent size at which the costs are counted.
    """

    json: bool = False
    latent: int = 8


def main(argv: list[str] | None = None) -> int:
    """Run a command line; returns the exit status, 2 for a mistake that the user can mend."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except FlowvaeError as error:
        print(f"flowvae: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"flowvae: interrupted{GO_ON.get(words[0], '')}.", file=sys.stderr)
        return 130


def _dispatch(words: list[str]) -> int:
    commands = {
        "train": (_train, _Train),
        "fit-prior": (_fit_prior, _FitPrior),
        "evaluate": (_evaluate, _Evaluate),
        "sample": (_sample, _Sample),
        "compare": (_compare, _Compare),
        "report": (_report, _Report),
        "list": (_list, _List),
    }
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: flowvae {{{','.join(commands)}}} ...\n")
        print("Variational autoencoders whose priors and guides are normalizing flows.\n")
        for name, (_, kind) in commands.items():
            print(f"  {name:11}{(kind.__doc__ or '').splitlines()[0]}")
        print("\nflowvae COMMAND --help explains each; with --import MODULE they know the flows of your module.")
        return 0
    if words[0] == "--version":
        from flowvae import __version__

        print(__version__)
        return 0
    if words[0] not in commands:
        raise FlowvaeError(f"unknown command {words[0]!r}; {nearest(words[0], commands)}")
    words, module = take_option(words, "--import")
    while module is not None:
        _import(module)
        words, module = take_option(words, "--import")
    with warnings.catch_warnings():
        warnings.simplefilter("always", SlowDirectionWarning)
        warnings.simplefilter("always", UnfinishedRunWarning)
        warnings.showwarning = _show_warning
        return commands[words[0]][0](words[1:])


def _train(words: list[str]) -> int:
    words, config = take_option(words, "--config")
    resume = "--resume" in words
    _, out = take_option(words, "--out")
    if resume and config is None and out is not None:
        config = str(Path(out) / "experiment.yaml")
    base = Experiment.from_yaml(config) if config is not None else Experiment()
    inside = base.decoder if isinstance(base.decoder, FlowDecoder) else None  # like a second stage, from YAML alone
    own = [f.name for f in dataclasses.fields(Experiment) if f.name != "second_stage"]
    parts = {name: getattr(base, name) for name in own} | ({"decoder": inside.mlp} if inside else {})
    args = _parse(_Train, arrange(words, base), "train", _Train(out=tyro.MISSING, **parts))
    experiment = replace(base, **{name: getattr(args, name) for name in own})
    if inside:
        experiment = replace(experiment, decoder=replace(inside, mlp=args.decoder))
    run = experiment.run(args.out, overwrite=args.overwrite, resume=args.resume, draws=args.draws)
    return _say(run)


def _fit_prior(words: list[str]) -> int:
    base = Experiment(prior=MAF())
    if words and not {"-h", "--help"} & set(words):
        if words[0].startswith("-") or re.match(r"(data|prior|guide):", words[0]):
            raise FlowvaeError(
                f"fit-prior {words[0]}: name the run first, such as flowvae fit-prior runs/mine prior:maf."
            )
        base = replace(Experiment.from_yaml(Path(words[0]) / "experiment.yaml"), prior=MAF())
    inference = replace(base.inference, kl_warmup=0, tempering=0)
    default = _FitPrior(tyro.MISSING, tyro.MISSING, inference=inference, prior=base.prior)
    args = _parse(_FitPrior, arrange(words, base), "fit-prior", default)
    stage = SecondStage(args.prior, args.inference, args.fine_tune)
    return _say(fit_prior(args.run, stage, args.out, overwrite=args.overwrite, draws=args.draws))


def _say(run: Run) -> int:
    for metric in run.metrics:
        print(metric)
    print(f"{run.directory}: experiment.yaml, checkpoint, history.csv, metrics.json and figures/")
    return 0


def _evaluate(words: list[str]) -> int:
    args = _parse(_Evaluate, words, "evaluate")
    run = load(args.run)
    measures = tuple(MEASURES) if args.measures == ("all",) else args.measures
    for metric in run.evaluate(
        measures=measures,
        split=args.split,
        draws=args.draws,
        seed=args.seed,
        compile=args.compile,
        figures=args.figures,
    ):
        print(metric)
    if args.figures:
        draw_figures(run.pair.model, run.pair.guide, run.data, run.history, run.directory / "figures", args.seed)
    return 0


def _sample(words: list[str]) -> int:
    args = _parse(_Sample, words, "sample")
    out = args.out or args.run / "samples.png"
    if out.suffix not in (".png", ".npz"):
        raise FlowvaeError(f"--out {out}: must end in .png (a picture) or .npz (codes and data).")
    if args.count < 1:
        raise FlowvaeError(f"--count {args.count}: must be 1 or more.")
    run = load(args.run)
    if out.suffix == ".png":
        figure = plot_samples(run.pair.model, run.data, args.seed)
        with atomic_write(out) as temporary:
            figure.savefig(temporary, format="png", dpi=150)
    else:
        with seeded(derive(args.seed, "sample")):
            z, mean = run.pair.model.generate(args.count)
            x = run.pair.model.decode(z).sample()
        with atomic_write(out) as temporary, temporary.open("wb") as file:
            np.savez(file, z=z.numpy(force=True), mean=mean.detach().numpy(force=True), x=x.numpy(force=True))
    print(out)
    return 0


def _compare(words: list[str]) -> int:
    args = _parse(_Compare, words, "compare")
    if args.question not in QUESTIONS:
        raise FlowvaeError(f"question {args.question!r}: {nearest(args.question, QUESTIONS)}")
    question = QUESTIONS[args.question]
    result = answer(
        question,
        args.data or question.data[0],
        args.preset,
        args.out,
        path=args.path,
        first_seed=args.first_seed,
        jobs=args.jobs,
        scheduler=args.scheduler,
    )
    means = summarize(result.grid.table, (question.measure, *question.secondary))
    print(f"{question.asks}\n\nMean ± standard error over seeds (nll, elbo and parts of them: nats per datum):")
    print(means.to_string(index=False))
    print(f"\n{question.measure.upper()}, paired over seeds:")
    for sentence in result.sentences:
        print(f"- {sentence}")
    for _, row in result.grid.failed.iterrows():
        print(f"failed: {row['arm']}, seed {row['seed']} ({row['cell']}): {row['error']}", file=sys.stderr)
    print(f"\n{result.directory}: table.csv, differences-*.csv, differences.png, answer.md, answer.json")
    return 1 if len(result.grid.failed) else 0


def _report(words: list[str]) -> int:
    args = _parse(_Report, words, "report")
    print(write_report(args.directory))
    return 0


def _list(words: list[str]) -> int:
    args = _parse(_List, words, "list")
    if args.latent < 1:
        raise FlowvaeError(f"--latent {args.latent}: must be 1 or more.")
    rows = table(args.latent)
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    print(f"Network passes at latent {args.latent}, default settings.\n")
    print(format_rows(rows))
    print("\ndensity: of a given code (a prior pays it in training); sample: one draw;")
    print("both: a draw with its own density (a guide pays it in training).")
    return 0


def format_rows(rows: list[Row]) -> str:
    """The table of families as aligned text."""
    head = ("name", "density", "sample", "both", "may be", "paper", "what it is")
    body = [
        (
            row.name,
            str(row.density),
            str(row.sample),
            str(row.sample_and_density),
            ", ".join(row.roles),
            row.paper,
            row.title if row.proper else f"{row.title} (not normalized beyond a box)",
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in [head, *body]
    )


def _parse(kind: type, words: list[str], command: str, default: Any = None) -> Any:
    given = {} if default is None else {"default": default}
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(lambda info: _LIKELIHOOD if info.type is LikelihoodSpec else None)
    with registry:
        return tyro.cli(kind, args=words, prog=f"flowvae {command}", **given)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"flowvae: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
