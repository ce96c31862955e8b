"""`flowvae push` and `flowvae pull`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from flowvae.cli.parse import parse
from flowvae.experiments.hub import MODEL, pull, push

__all__ = ["Pull", "Push", "pull_command", "push_command"]


@dataclass(frozen=True)
class Push:
    """Write a run and its model card to a model hub, or into a folder.

    The files are model.safetensors and README.md. They do not contain the data, and other files in the place are kept.
    A hub needs huggingface_hub (pip install -e '.[hub]') and a login (hf auth login).

    Args:
        run: directory of the run, or its exported file.
        repo: OWNER/NAME of a repository, which is created if it does not exist, or an existing folder.
        overwrite: replace an earlier model and card there.
        public: make a new repository public; otherwise it is private.
        licence: licence of the weights, for the card, such as mit or cc-by-4.0.
        message: commit message.
    """

    run: tyro.conf.Positional[Path]
    repo: tyro.conf.Positional[str]
    overwrite: bool = False
    public: bool = False
    licence: str = "unknown"
    message: str = ""


@dataclass(frozen=True)
class Pull:
    """Fetch the file of a run from a model hub, or from a folder, and check it.

    flowvae.load(FILE) opens it.

    Args:
        repo: OWNER/NAME of a repository, or a folder.
        file: the file to write, NAME.safetensors.
        name: name of the file in the repository.
        revision: branch, tag or commit of the repository; by default the newest.
        overwrite: replace an earlier file.
    """

    repo: tyro.conf.Positional[str]
    file: tyro.conf.Positional[Path]
    name: str = MODEL
    revision: str | None = None
    overwrite: bool = False


def push_command(words: list[str]) -> int:
    """Push a run."""
    args = parse(Push, words, "push")
    how = {"overwrite": args.overwrite, "public": args.public, "licence": args.licence, "message": args.message}
    found = push(args.run, args.repo, **how)
    print(f"{found.where}: {found.file} and README.md, revision {found.revision}")
    return 0


def pull_command(words: list[str]) -> int:
    """Pull a run."""
    args = parse(Pull, words, "pull")
    found = pull(args.repo, args.file, name=args.name, revision=args.revision, overwrite=args.overwrite)
    print(f"{found.file}: from {found.where}, revision {found.revision}")
    return 0
