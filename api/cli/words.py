"""The words of a command line in the order that its parser wants: each setting behind the part that it belongs to."""

from __future__ import annotations

import re

from flowvae.core.errors import FlowvaeError, shown
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.families import check_family, name_of
from flowvae.experiments.serialization import check_setting

__all__ = ["CHOICE", "arrange", "check_once", "take_option"]

GROUPS = ("data", "prior", "guide")
CHOICE = re.compile(rf"({'|'.join(GROUPS)}):(\S*)")  # prior:maf
SETTING = re.compile(rf"--({'|'.join(GROUPS)})\.(?:no-)?([\w-]*)")  # --prior.transforms, --guide.no-conditioned


def arrange(words: list[str], base: Experiment) -> list[str]:
    """Put settings behind the part that they belong to, so that a user may write them in any order.

    A part that has settings but was not named is the one of the base.

    Raises:
        FlowvaeError: for an unknown family, a part that is named twice, or a setting of another family.

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
            if group in named:
                raise FlowvaeError(f"{named[group]} and {word}: the {group} is named twice; name it once.")
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


def check_once(words: list[str]) -> None:
    """Refuse an option that is given twice, of which only the last value would count.

    Raises:
        FlowvaeError: for such an option.
    """
    seen: dict[str, str] = {}
    for word in words:
        if not word.startswith("--"):
            continue
        option = word.partition("=")[0].replace("_", "-")
        meant = re.sub(r"^(--(?:.*\.)?)no-", r"\1", option)  # --no-figures is --figures
        if meant in seen and meant != "--help":
            if seen[meant] == option:
                raise FlowvaeError(f"{shown(option)}: is given twice; give it once.")
            raise FlowvaeError(f"{shown(seen[meant])} and {shown(option)}: contradict each other; give one of them.")
        seen[meant] = option


def take_option(words: list[str], name: str) -> tuple[list[str], str | None]:
    """Take an option and its value out of the words.

    Raises:
        FlowvaeError: if it has no value.
    """
    for i, word in enumerate(words):
        if word.startswith(f"{name}="):
            return words[:i] + words[i + 1 :], word.partition("=")[2]
        if word == name:
            if i + 1 == len(words) or words[i + 1].startswith("--"):
                raise FlowvaeError(f"{name}: needs a value after it.")
            return words[:i] + words[i + 2 :], words[i + 1]
    return words, None
