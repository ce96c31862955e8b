"""The command line: `flowvae train | fit-prior | evaluate | …`."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from flowvae.cli.options import check_once, take_option
from flowvae.core.errors import (
    FlowvaeError,
    OtherDeviceWarning,
    SlowDirectionWarning,
    UnfinishedRunWarning,
    nearest,
    one_line,
    shown,
)
from flowvae.core.interruption import Interruption
from flowvae.core.script import line_of

__all__ = ["main"]

MODULE = "name a file in this directory without .py, or an installed module"
# by command: its module, which is imported when it is called, and the first line of its description
COMMANDS = {
    "train": ("training", "Train a VAE, measure it on the test split and draw figures, in one directory."),
    "fit-prior": (
        "training",
        "Fit another prior to the codes of a finished run with frozen encoder and decoder; the run is copied.",
    ),
    "distill": (
        "training",
        "Distill the prior of a finished run into a prior with fast draws; the run is copied.",
    ),
    "evaluate": (
        "runs",
        "Measure a trained run: ELBO and NLL, or other measures by name; results are added to metrics.json.",
    ),
    "sample": (
        "runs",
        "Draw new data from a trained run, as a picture (.png) or as arrays (.npz): mean, E[x | z], and x, draws of x.",
    ),
    "encode": ("runs", "Write the codes of new data: the mean of q(z | x) of each data point, or draws from it."),
    "export": (
        "runs",
        "Write a run without its data to one file, which flowvae.load(FILE) opens on any machine.",
    ),
    "push": ("sharing", "Write a run and its model card to a model hub, or into a folder."),
    "pull": ("sharing", "Fetch the file of a run from a model hub, or from a folder, and check it."),
    "compare": (
        "comparing",
        "Answer a question: run its arms over seeds, compare them in pairs, write tables and a figure.",
    ),
    "report": ("comparing", "Write one HTML page with all comparisons in a directory."),
    "reproduce": (
        "reproducing",
        "Train and measure the experiment of a published protocol, and write its row beside the published figures.",
    ),
    "list": (
        "listing",
        "List the families of parts, with papers and costs, the measures and the questions.",
    ),
}
# how to continue after an interruption, by command
GO_ON = {
    "train": "; continue from the last checkpoint with the same arguments and --resume",
    "fit-prior": "; continue from the last checkpoint with flowvae train --resume and the same --out",
    "distill": "; continue from the last checkpoint with flowvae train --resume and the same --out",
    "evaluate": "; finished measures are in metrics.json, name the others to continue",
    "compare": "; finished cells are kept, the same command runs the others",
    "reproduce": "; finished seeds are kept, the same command runs the others",
}


def _import(name: str) -> None:
    """Import a user's module from the working directory or the environment, which registers its parts."""
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
    except Exception as error:  # a user's code may raise anything
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> FlowvaeError:
    """Return an error with the exception that a user's module raised, and its place."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return FlowvaeError(
        f"--import {name}: {type(error).__name__}: {one_line(error)} ({Path(place.filename).name}:{place.lineno})."
    )


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return the exit status, 2 for a mistake that the user can fix."""
    words = list(sys.argv[1:] if argv is None else argv)
    go_on = GO_ON.get(words[0], "") if words else ""
    with Interruption("flowvae: interrupted.", program=argv is None) as interruption:
        try:
            try:
                return _dispatch(words, interruption)
            finally:
                print(end="", flush=True)  # so that a closed pipe is noticed here
        except BaseException as error:
            if interruption.happened or isinstance(error, KeyboardInterrupt):
                return interruption.say()
            if isinstance(error, FlowvaeError):
                print(f"flowvae: {line_of(error)}", file=sys.stderr)
                return 2
            if isinstance(error, BrokenPipeError):  # the reader of the output, such as head, has stopped
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the rest is flushed at exit
                return 141  # 128 + SIGPIPE
            if isinstance(error, OSError):  # of the disk, not of the program
                kept = f"; earlier files are kept{go_on}" if words else ""
                print(f"flowvae: {line_of(error)}{kept}.", file=sys.stderr)
                return 2
            raise


def _dispatch(words: list[str], interruption: Interruption) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: flowvae {{{','.join(COMMANDS)}}} ...\n")
        print("Variational autoencoders whose priors and guides are normalizing flows.\n")
        for name, (_, summary) in COMMANDS.items():
            print(f"  {name:11}{summary}")
        print("\nflowvae COMMAND --help explains a command; --import MODULE registers the parts of your own module.")
        return 0
    if words[0] == "--version":
        from flowvae import __version__

        print(__version__)
        return 0
    command = words[0]
    if command not in COMMANDS:
        raise FlowvaeError(f"unknown command {shown(command)}; {nearest(command, COMMANDS)}")
    words, module = take_option(words, "--import")
    imported = []
    while module is not None:
        imported.append(module)
        words, module = take_option(words, "--import")
    check_once(words)
    room = importlib.import_module(f"flowvae.cli.{COMMANDS[command][0]}")
    for module in imported:
        _import(module)
    with warnings.catch_warnings():
        for said in (SlowDirectionWarning, UnfinishedRunWarning, OtherDeviceWarning):
            warnings.simplefilter("always", said)
        warnings.showwarning = _show_warning
        interruption.orderly = True
        interruption.sentence = f"flowvae: interrupted{GO_ON.get(command, '')}."
        status: int = getattr(room, f"{command.replace('-', '_')}_command")(words[1:])
        return status


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"flowvae: {line_of(message)}", file=sys.stderr)
