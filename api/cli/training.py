"""`flowvae train` and `flowvae fit-prior`."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from flowvae.cli.options import take_option
from flowvae.cli.parse import parse, print_help
from flowvae.cli.words import choose_parts, is_choice, kind_of_part
from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.parts import Condition, GuideSpec, NetworkSpec, PriorSpec
from flowvae.core.registry import families
from flowvae.data import DataSpec
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.run import Run
from flowvae.experiments.stages import SecondStage
from flowvae.experiments.train import fit_prior
from flowvae.flows import IAF, MAF
from flowvae.inference import Training

__all__ = [
    "SHARED",
    "Distill",
    "FitPrior",
    "Train",
    "distill_command",
    "fit_prior_command",
    "read_words",
    "train_command",
]


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a VAE, measure it on the test split and draw figures, in one directory.

    A word PART:NAME replaces a part, and options --PART.SETTING change its settings, in any order. A part inside a part
    is given by its path: prior:latent-variable prior.decoder:resnet --prior.decoder.features 64.
    `flowvae train prior:maf --help` explains the settings of a part, `flowvae list` shows all families.
    A second stage is specified in --config, or added afterwards with `flowvae fit-prior`.

    Args:
        out: directory of the run.
        config: an experiment.yaml, which the other arguments modify; by default, with --resume, that of the run.
        resume: continue the interrupted run in --out, or extend a finished one by a larger --inference.epochs.
        overwrite: delete an earlier run in --out.
        draws: draws per data point for the test NLL; by default 1000 or, with --resume, as for the earlier part of
            the run.
        latent: size of the code, or its shape, such as 4 7 7.
        seed: seed of split, initial weights, order of batches and noise.
        inference: settings of the training.
        data: data set.
        encoder: network from data to the features that the guide head reads.
        decoder: network from code to the parameters of the likelihood.
        prior: p(z).
        guide: q(z | x).
        condition: the condition of the model.
    """

    out: Path
    config: Path | None = None
    resume: bool = False
    overwrite: bool = False
    draws: int | None = None
    latent: int | tuple[int, ...]
    seed: int
    inference: Training
    data: DataSpec
    encoder: NetworkSpec
    decoder: NetworkSpec
    prior: PriorSpec
    guide: GuideSpec
    condition: Condition | None


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Distill the prior of a finished run into a prior with fast draws; the run is copied.

    The student is named as in `flowvae train`: prior:iaf or prior:coupling-nsf, and its settings. An interrupted
    distillation is resumed with `flowvae train --resume --out OUT`.

    Args:
        run: directory of the run whose prior is the teacher; the first argument.
        out: directory of the new run.
        kl: "reverse", KL(student‖teacher), which seeks modes; "forward", KL(teacher‖student) on cached draws of the
            teacher; "both", their sum.
        teacher_draws: number of cached draws of the teacher.
        overwrite: delete an earlier run in --out.
        draws: draws per data point for the test NLL.
        inference: settings of the training; by default those of the run, except its objective and annealing.
        prior: the student.
    """

    run: tyro.conf.Positional[Path]
    out: Path
    kl: str = "reverse"
    teacher_draws: int = 20_000
    overwrite: bool = False
    draws: int = 1000
    inference: Training
    prior: PriorSpec


@dataclass(frozen=True, kw_only=True)
class FitPrior:
    """Fit another prior to the codes of a finished run with frozen encoder and decoder; the run is copied.

    The prior is named as in `flowvae train`: prior:NAME and its settings. An interrupted fit is resumed with
    `flowvae train --resume --out OUT`.

    Args:
        run: directory of the run; the first argument.
        out: directory of the new run.
        fine_tune: train encoder, decoder and prior together afterwards.
        overwrite: delete an earlier run in --out.
        draws: draws per data point for the test NLL.
        inference: settings of the training; by default those of the run without annealing and, unless --fine-tune, with
            the plain ELBO.
        prior: the second p(z).
    """

    run: tyro.conf.Positional[Path]
    out: Path
    fine_tune: bool = False
    overwrite: bool = False
    draws: int = 1000
    inference: Training
    prior: PriorSpec


# settings for the ELBO of a whole model, which the fit of a prior alone does not inherit
PLAIN: dict[str, Any] = {"kl_weight": 1.0, "particles": 1, "objective": Training().objective}
SHARED = [f.name for f in fields(Experiment) if f.name != "second_stage"]  # settings of both


def train_command(words: list[str]) -> int:
    """Train the experiment given by command-line words."""
    words, config = take_option(words, "--config")
    _, out = take_option(words, "--out")
    if "--resume" in words and config is None and out is not None:
        config = str(Path(out) / "experiment.yaml")
    base = Experiment.from_yaml(config) if config is not None else Experiment()
    args = read_words(words, "train", Train(out=tyro.MISSING, **{name: getattr(base, name) for name in SHARED}))
    experiment = replace(base, **{name: getattr(args, name) for name in SHARED})
    return _report(experiment.run(args.out, overwrite=args.overwrite, resume=args.resume, draws=args.draws))


def fit_prior_command(words: list[str]) -> int:
    """Fit the prior given by command-line words to the codes of a run."""
    blank = FitPrior(run=tyro.MISSING, out=tyro.MISSING, inference=Training(), prior=MAF())
    plain = {} if "--fine-tune" in words else PLAIN
    args = _read_after_run(words, "fit-prior", blank, **plain)
    stage = SecondStage(args.prior, args.inference, args.fine_tune)
    return _report(fit_prior(args.run, stage, args.out, overwrite=args.overwrite, draws=args.draws))


def distill_command(words: list[str]) -> int:
    """Fit the prior given by command-line words to the prior of a run."""
    blank = Distill(run=tyro.MISSING, out=tyro.MISSING, inference=Training(), prior=IAF())
    args = _read_after_run(words, "distill", blank, **PLAIN)
    stage = SecondStage(args.prior, args.inference, distill=args.kl, teacher_draws=args.teacher_draws)
    return _report(fit_prior(args.run, stage, args.out, overwrite=args.overwrite, draws=args.draws))


def _read_after_run(words: list[str], command: str, blank: Any, **neutral: Any) -> Any:
    """Parse a command whose first argument is a run; the training inherits its settings, except the annealing."""
    neutral |= {"kl_warmup": 0, "tempering": 0}
    inference = blank.inference
    if words and not {"-h", "--help"} & set(words):
        if words[0].startswith("-") or is_choice(words[0], blank):
            raise FlowvaeError(
                f"{command} {shown(words[0])}: name the run first, such as flowvae {command} runs/mine prior:maf."
            )
        inference = Experiment.from_yaml(Path(words[0]) / "experiment.yaml").inference
    return read_words(words, command, replace(blank, inference=replace(inference, **neutral)))


def read_words(words: list[str], command: str, base: Any) -> Any:
    """Parse a command with parts; --help explains the parts that were named."""
    chosen = choose_parts(words, base)
    if {"-h", "--help"} & set(words):
        paths = [word.partition(":")[0] for word in chosen.named]
        named = {
            word: part
            for path, (word, part) in zip(paths, chosen.named.items(), strict=True)
            # not condition:none, and not a part that contains another named part
            if part is not None and not any(other.startswith(f"{path}.") for other in paths)
        }
        if named:
            print_help(command, named)
    return parse(type(base), chosen.words, command, chosen.base, _describe(base))


def _describe(base: Any) -> str:
    """Return the docstring of a command and, for each part, the names of its families."""
    about = (base.__doc__ or "").partition("\n\n    Args:")[0]
    lines = ["\n".join(line.strip() for line in about.splitlines())]
    for name, kind in _kinds(base).items():
        names = ["none", "labels", "covariates"] if kind == "condition" else families(kind)
        lines.append(f"{name}: {', '.join(names)}")
    return "\n\n".join(lines)


def _kinds(owner: Any, prefix: str = "") -> dict[str, str]:
    """Return the kinds of a command's parts by path, including those of the training settings."""
    found = {}
    for f in fields(owner):
        if kind := kind_of_part(owner, f.name):
            found[prefix + f.name] = kind
        elif is_dataclass(inside := getattr(owner, f.name)):
            found |= _kinds(inside, f"{prefix}{f.name}.")
    return found


def _report(run: Run) -> int:
    for metric in run.metrics:
        print(metric)
    print(f"{run.directory}: experiment.yaml, checkpoint, history.csv, metrics.json and figures/")
    return 0
