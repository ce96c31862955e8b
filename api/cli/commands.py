"""What each command of the command line takes, as the dataclasses that tyro reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from flowvae.data import LikelihoodSpec, parse_likelihood
from flowvae.evaluation import Effort
from flowvae.experiments.families import DATA, GUIDES, PRIORS
from flowvae.inference import Training
from flowvae.networks import MLP

__all__ = ["Compare", "Evaluate", "FitPrior", "List", "Report", "Sample", "Train", "parse"]

_LIKELIHOOD = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="bernoulli|binomial:TOTAL|gaussian[:SCALE|:shared]",
    instance_from_str=lambda words: parse_likelihood(words[0]),
    is_instance=lambda value: isinstance(value, LikelihoodSpec),
    str_from_instance=lambda value: [str(value)],
)


_NONE = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="none",
    choices=("none", "None"),
    instance_from_str=lambda words: None,
    is_instance=lambda value: value is None,
    str_from_instance=lambda value: ["none"],
)


def _one_of(families: dict[str, Any]) -> Callable[[], Any]:
    """Makes a sub-command for each family when words are parsed: the tables grow by the user's own flows."""

    def choice() -> Any:
        members = []
        for name, entry in families.items():
            kind, default = entry if isinstance(entry, tuple) else (entry, tyro.MISSING)
            given = {} if default is tyro.MISSING else {"default": default}
            members.append(Annotated[kind, tyro.conf.subcommand(name, **given)])
        return Union[tuple(members)]  # noqa: UP007  (made from a list)

    return choice


DataChoice = Annotated[Any, tyro.conf.arg(constructor_factory=_one_of(DATA))]
PriorChoice = Annotated[Any, tyro.conf.arg(constructor_factory=_one_of(PRIORS))]
GuideChoice = Annotated[Any, tyro.conf.arg(constructor_factory=_one_of(GUIDES))]


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a VAE, measure it on the test split and draw figures, all into one directory.

    Parts are swapped by naming them at the end: data:NAME prior:NAME guide:NAME, each followed by its
    settings. `flowvae list` shows the names, `flowvae train prior:maf --help` the settings of one.

    Args:
        out: directory of the run.
        config: an experiment.yaml that the other arguments change; with --resume, the run's own.
        resume: go on with the interrupted run in --out.
        overwrite: delete an earlier run in --out.
        draws: draws a datum for the test NLL; by default 1000 or, with --resume, as many as the run was started with.
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
    draws: int | None = None
    latent: int
    seed: int
    encoder: MLP
    decoder: MLP
    inference: Training
    data: DataChoice
    prior: PriorChoice
    guide: GuideChoice


@dataclass(frozen=True, kw_only=True)
class FitPrior:
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
    inference: Training
    prior: PriorChoice


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained run: ELBO and NLL, or any other measures by name; all of them go into metrics.json.

    Args:
        run: directory of the run.
        measures: all, or names: likelihood, iwae, gaps, bdmc, surgery, held-out-codes, holes, mmd, classifier,
            activity, calibration, generation, memorization, paths.
        split: train, valid or test.
        draws: draws a datum for the NLL.
        seed: of all measures.
        compile: none, capture or inductor: how NLL and IWAE bound are computed; inductor pays on thousands of data.
        effort: size of iwae, gaps and bdmc.
        figures: draw the figures of the run and of the measures too.
    """

    run: tyro.conf.Positional[Path]
    measures: tuple[str, ...] = ("likelihood",)
    split: str = "test"
    draws: int = 1000
    seed: int = 0
    compile: str = "none"
    effort: Effort = field(default_factory=Effort)
    figures: bool = False


@dataclass(frozen=True)
class Sample:
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
class Compare:
    """Answer a question: run its arms over seeds, compare them in pairs, write tables and a figure.

    Cells that are done are not run again, so an interrupted comparison goes on with the same command, and questions
    that share --out share the runs that they have in common.

    Args:
        question: prior-flows, posterior-flows, prior-or-posterior, capacity, holes or kl-weight.
        out: directory of all cells and answers.
        data: a data set that the question is asked on; by default its first.
        path: the file of static-mnist; by default it is looked for in the working directory.
        preset: seconds (writes every file), minutes (shows how it works), hour (on two cores) or cluster.
        seeds: how many, in place of the preset's.
        epochs: the most of a run, in place of the preset's.
        draws: draws a datum for the NLL, in place of the preset's.
        first_seed: the lowest seed.
        jobs: processes at a time, each with one thread.
        scheduler: address of a Dask scheduler whose workers run the cells, such as tcp://host:8786.
    """

    question: tyro.conf.Positional[str]
    out: Path = Path("comparisons-out")
    data: str | None = None
    path: Path | None = None
    preset: str = "minutes"
    seeds: int | None = None
    epochs: int | None = None
    draws: int | None = None
    first_seed: int = 0
    jobs: int = 1
    scheduler: str | None = None


@dataclass(frozen=True)
class Report:
    """Write one HTML page of every comparison in a directory.

    Args:
        directory: the --out of `flowvae compare`.
    """

    directory: tyro.conf.Positional[Path]


@dataclass(frozen=True)
class List:
    """List every family: its paper, what it may be, and what it costs in network passes.

    Args:
        json: print JSON.
        latent: the latent size at which the costs are counted.
    """

    json: bool = False
    latent: int = 8


def parse(kind: type, words: list[str], command: str, default: Any = None) -> Any:
    """The arguments of a command from its words; a mistake, or --help, ends the program as tyro does it.

    Args:
        kind: one of the classes above.
        words: in the order that `flowvae.cli.words.arrange` gives.
        command: its name.
        default: an object of the class whose values stand where no word does.
    """
    given = {} if default is None else {"default": default}
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(lambda info: _LIKELIHOOD if info.type is LikelihoodSpec else None)
    registry.primitive_rule(lambda info: _NONE if info.type in (None, type(None)) else None)
    with registry:
        return tyro.cli(kind, args=words, prog=f"flowvae {command}", **given)
