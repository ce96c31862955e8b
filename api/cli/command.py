"""The command line: `flowvae train | fit-prior | evaluate | …`, all from the same specs."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
import warnings
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from flowvae.cli.commands import Compare, Evaluate, FitPrior, List, Report, Sample, Train, parse
from flowvae.cli.family_table import format_rows, table
from flowvae.cli.words import CHOICE, arrange, check_once, take_option
from flowvae.comparisons import QUESTIONS, answer, preset_of, summarize, write_report
from flowvae.core.errors import (
    FlowvaeError,
    OtherDeviceWarning,
    SlowDirectionWarning,
    UnfinishedRunWarning,
    nearest,
    one_line,
    shown,
)
from flowvae.core.files import as_path, atomic_write
from flowvae.core.memory import check_memory
from flowvae.core.script import line_of
from flowvae.core.seeds import derive, seeded
from flowvae.evaluation import MEASURES, draw_figures, plot_samples, write_figure
from flowvae.experiments.experiment import Experiment, fit_prior, load
from flowvae.experiments.run import MeasurementError, Run
from flowvae.experiments.stages import SecondStage
from flowvae.flows import MAF
from flowvae.models import FlowDecoder

__all__ = ["main"]

MODULE = "name a file of this directory without its .py, or an installed module"
# what to do after an interruption, by command
GO_ON = {
    "train": "; go on from the last checkpoint with the same words and --resume",
    "fit-prior": "; go on from the last checkpoint with flowvae train --resume and the same --out",
    "evaluate": "; finished measures are in metrics.json, name the others to go on",
    "compare": "; finished cells are kept, the same command goes on with the others",
}


def _import(name: str) -> None:
    """Import a module of the user's, in the working directory or installed; its flows become words."""
    if not all(part.isidentifier() for part in name.split(".")):
        raise FlowvaeError(f"--import {one_line(name)}: is not the name of a module; {MODULE}.")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if name.partition(".")[0] != (error.name or "").partition(".")[0]:
            raise _broken(name, error) from error
        raise FlowvaeError(f"--import {one_line(name)}: no such module; {MODULE}.") from None
    except FlowvaeError:
        raise
    except Exception as error:  # whatever a user's code may raise
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> FlowvaeError:
    """What a module of the user's raised, and where."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return FlowvaeError(
        f"--import {name}: {type(error).__name__}: {one_line(error)} ({Path(place.filename).name}:{place.lineno})."
    )


def main(argv: list[str] | None = None) -> int:
    """Run a command line; returns the exit status, 2 for a mistake that the user can fix."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _dispatch(words)
        finally:
            print(end="", flush=True)  # so that a closed pipe is noticed here
    except FlowvaeError as error:
        print(f"flowvae: {line_of(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"flowvae: interrupted{GO_ON.get(words[0], '') if words else ''}.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who read the output, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is flushed at exit
        return 141  # 128 + SIGPIPE
    except OSError as error:  # of the disk, not of the program
        kept = "; what was written before stays" + GO_ON.get(words[0], "") if words else ""
        print(f"flowvae: {line_of(error)}{kept}.", file=sys.stderr)
        return 2


def _dispatch(words: list[str]) -> int:
    commands = {
        "train": (_train, Train),
        "fit-prior": (_fit_prior, FitPrior),
        "evaluate": (_evaluate, Evaluate),
        "sample": (_sample, Sample),
        "compare": (_compare, Compare),
        "report": (_report, Report),
        "list": (_list, List),
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
        raise FlowvaeError(f"unknown command {shown(words[0])}; {nearest(words[0], commands)}")
    words, module = take_option(words, "--import")
    while module is not None:
        _import(module)
        words, module = take_option(words, "--import")
    check_once(words)
    with warnings.catch_warnings():
        for said in (SlowDirectionWarning, UnfinishedRunWarning, OtherDeviceWarning):
            warnings.simplefilter("always", said)
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
    own = [f.name for f in fields(Experiment) if f.name != "second_stage"]
    parts = {name: getattr(base, name) for name in own} | ({"decoder": inside.mlp} if inside else {})
    args = parse(Train, arrange(words, base), "train", Train(out=tyro.MISSING, **parts))
    experiment = replace(base, **{name: getattr(args, name) for name in own})
    if inside:
        experiment = replace(experiment, decoder=replace(inside, mlp=args.decoder))
    run = experiment.run(args.out, overwrite=args.overwrite, resume=args.resume, draws=args.draws)
    return _say(run)


def _fit_prior(words: list[str]) -> int:
    base = Experiment(prior=MAF())
    if words and not {"-h", "--help"} & set(words):
        if words[0].startswith("-") or CHOICE.match(words[0]):
            raise FlowvaeError(
                f"fit-prior {words[0]}: name the run first, such as flowvae fit-prior runs/mine prior:maf."
            )
        base = replace(Experiment.from_yaml(Path(words[0]) / "experiment.yaml"), prior=MAF())
    inference = replace(base.inference, kl_warmup=0, tempering=0)
    default = FitPrior(run=tyro.MISSING, out=tyro.MISSING, inference=inference, prior=base.prior)
    args = parse(FitPrior, arrange(words, base), "fit-prior", default)
    stage = SecondStage(args.prior, args.inference, args.fine_tune)
    return _say(fit_prior(args.run, stage, args.out, overwrite=args.overwrite, draws=args.draws))


def _say(run: Run) -> int:
    for metric in run.metrics:
        print(metric)
    print(f"{run.directory}: experiment.yaml, checkpoint, history.csv, metrics.json and figures/")
    return 0


def _evaluate(words: list[str]) -> int:
    args = parse(Evaluate, words, "evaluate")
    run = load(args.run)
    measures = tuple(MEASURES) if args.measures == ("all",) else args.measures
    how = {"split": args.split, "draws": args.draws, "seed": args.seed, "compile": args.compile, "effort": args.effort}
    not_taken = None
    try:
        taken = run.evaluate(measures=measures, figures=args.figures, **how)
    except MeasurementError as error:
        not_taken, taken = error, error.taken
    for metric in taken:
        print(metric)
    if args.figures:
        draw_figures(run.pair.model, run.pair.guide, run.data, run.history, run.directory / "figures", args.seed)
    if not_taken:
        raise not_taken
    return 0


def _sample(words: list[str]) -> int:
    args = parse(Sample, words, "sample")
    out = as_path(args.out) if args.out else args.run / "samples.png"
    if out.suffix not in (".png", ".npz"):
        raise FlowvaeError(f"--out {out}: must end in .png (a picture) or .npz (codes and data).")
    if args.count < 1:
        raise FlowvaeError(f"--count {args.count}: must be 1 or more.")
    run = load(args.run)
    check_memory(
        f"--count {args.count}", 4.0 * args.count * (run.experiment.latent + 2 * run.data.features), "draw fewer"
    )
    if out.suffix == ".png":
        write_figure(plot_samples(run.pair.model, run.data, args.seed), out)
    else:
        with seeded(derive(args.seed, "sample")):
            z, mean = run.pair.model.generate(args.count)
            x = run.pair.model.decode(z).sample()
        mean, x = run.data.original(mean), run.data.original(x)
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(out) as temporary, temporary.open("wb") as file:
            np.savez(file, z=z.numpy(force=True), mean=mean.detach().numpy(force=True), x=x.numpy(force=True))
    print(out)
    return 0


def _compare(words: list[str]) -> int:
    args = parse(Compare, words, "compare")
    if args.question not in QUESTIONS:
        raise FlowvaeError(f"question {shown(args.question)}: {nearest(args.question, QUESTIONS)}")
    question = QUESTIONS[args.question]
    own = {name: value for name in ("seeds", "epochs", "draws") if (value := getattr(args, name)) is not None}
    result = answer(
        question,
        args.data or question.data[0],
        replace(preset_of(args.preset), **own) if own else args.preset,
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
    args = parse(Report, words, "report")
    print(write_report(args.directory))
    return 0


def _list(words: list[str]) -> int:
    args = parse(List, words, "list")
    if args.latent < 1:
        raise FlowvaeError(f"--latent {args.latent}: must be 1 or more.")
    rows = table(args.latent)
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return 0
    print(f"Network passes at latent {args.latent}, default settings.\n")
    print(format_rows(rows))
    print("density: of a given code (a prior pays it in training); sample: one draw;")
    print("both: a draw with its own density (a guide pays it in training).")
    return 0


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"flowvae: {line_of(message)}", file=sys.stderr)
