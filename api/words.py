"""The words of a command line in the order that its parser wants: each setting behind the part that it belongs to."""

from __future__ import annotations

import re

from flowvae.experiment import Experiment
from flowvae.families import check_family, name_of
from flowvae.plain import check_setting

__all__ = ["CHOICE", "arrange", "take_option"]

GROUPS = ("data", "prior", "guide")
CHOICE = re.compile(rf"({'|'.join(GROUPS)}):(\S*)")  # prior:maf
SETTING = re.compile(rf"--({'|'.join(GROUPS)})\.(?:no-)?([\w-]*)")  # --prior.transforms, --guide.no-conditioned


def arrange(words: list[str], base: Experiment) -> list[str]:
    """Put settings behind the part that they belong to, so that a user may write them in any order.

    A part that has settings but was not named is the one of the base.

    Raises:
        FlowvaeError: for an unknown family, or a setting of another one.

    >>> arrange(["prior:maf", "--latent", "2", "--prior.transforms", "5"], Experiment())
    ['--latent', '2', 'prior:maf', '--prior.transforms', '5']
    """
    root: list[str] = []
    parts: dict[str, list[str]] = {group: [] for group in GROUPS}
    named: dict[str, str] = {}
    current = root
    for word in words:
        if choice := CHOICE.fullmatch(word):
            group, name = choice.groups()
            check_family(group, name)
            named[group] = word
            current = parts[group]
        elif word.startswith("--"):
            setting = SETTING.match(word)
            current = parts[setting.group(1)] if setting else root
            current.append(word)
        elif word == "-h":
            (parts[list(named)[-1]] if named else root).append(word)
        else:
            current.append(word)
    if "--help" in root and named:  # help about the part that was named last
        root.remove("--help")
        parts[list(named)[-1]].append("--help")
    arranged = list(root)
    for group in GROUPS:
        if parts[group] and group not in named:
            named[group] = f"{group}:{name_of(getattr(base, group))}"
        if group in named:
            for word in parts[group]:
                if setting := SETTING.match(word):
                    check_setting(group, named[group].partition(":")[2], setting.group(2).replace("-", "_"))
            arranged += [named[group], *parts[group]]
    return arranged


def take_option(words: list[str], name: str) -> tuple[list[str], str | None]:
    """Take an option and its value out of the words."""
    for i, word in enumerate(words):
        if word.startswith(f"{name}="):
            return words[:i] + words[i + 1 :], word.partition("=")[2]
        if word == name and i + 1 < len(words):
            return words[:i] + words[i + 2 :], words[i + 1]
    return words, None
