"""Options that are read before the arguments are parsed."""

from __future__ import annotations

import re

from flowvae.core.errors import FlowvaeError, shown

__all__ = ["check_once", "take_option"]


def check_once(words: list[str]) -> None:
    """Check that no option is given twice, since only the last value would count.

    Raises:
        FlowvaeError: if one is.
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
    """Remove an option and its value from the words; return the other words and the value.

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
