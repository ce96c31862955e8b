"""The command line: `flowvae train | fit-prior | evaluate | …`, all from the same specs."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from flowvae.cli.comparing import Compare, Report, compare_command, report_command
from flowvae.cli.listing import List, list_command
from flowvae.cli.runs import (
    Encode,
    Evaluate,
    Export,
    Sample,
    encode_command,
    evaluate_command,
    export_command,
    sample_command,
)
from flowvae.cli.training import FitPrior, Train, fit_prior_command, train_command
from flowvae.cli.words import check_once, take_option
from flowvae.core.errors import (
    FlowvaeError,
    OtherDeviceWarning,
    SlowDirectionWarning,
    UnfinishedRunWarning,
    nearest,
    one_line,
    shown,
)
from flowvae.core.script import line_of

__all__ = ["main"]

MODULE = "name a file of this directory without its .py, or an installed module"
COMMANDS = {
    "train": (train_command, Train),
    "fit-prior": (fit_prior_command, FitPrior),
    "evaluate": (evaluate_command, Evaluate),
    "sample": (sample_command, Sample),
    "encode": (encode_command, Encode),
    "export": (export_command, Export),
    "compare": (compare_command, Compare),
    "report": (report_command, Report),
    "list": (list_command, List),
}
# what to do after an interruption, by command
GO_ON = {
    "train": "; go on from the last checkpoint with the same words and --resume",
    "fit-prior": "; go on from the last checkpoint with flowvae train --resume and the same --out",
    "evaluate": "; finished measures are in metrics.json, name the others to go on",
    "compare": "; finished cells are kept, the same command goes on with the others",
}


def _import(name: str) -> None:
    """Import a module of the user's, in the working directory or installed; its parts become words."""
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
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: flowvae {{{','.join(COMMANDS)}}} ...\n")
        print("Variational autoencoders whose priors and guides are normalizing flows.\n")
        for name, (_, kind) in COMMANDS.items():
            print(f"  {name:11}{(kind.__doc__ or '').splitlines()[0]}")
        print("\nflowvae COMMAND --help explains each; with --import MODULE they know the parts of your module.")
        return 0
    if words[0] == "--version":
        from flowvae import __version__

        print(__version__)
        return 0
    if words[0] not in COMMANDS:
        raise FlowvaeError(f"unknown command {shown(words[0])}; {nearest(words[0], COMMANDS)}")
    words, module = take_option(words, "--import")
    while module is not None:
        _import(module)
        words, module = take_option(words, "--import")
    check_once(words)
    with warnings.catch_warnings():
        for said in (SlowDirectionWarning, UnfinishedRunWarning, OtherDeviceWarning):
            warnings.simplefilter("always", said)
        warnings.showwarning = _show_warning
        return COMMANDS[words[0]][0](words[1:])


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"flowvae: {line_of(message)}", file=sys.stderr)
