"""One-line errors for invalid arguments, with value, rule and remedy, in place of the parser's boxes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import NamedTuple, NoReturn

from flowvae.core.errors import FlowvaeError, one_line, shown
from flowvae.core.registry import families, kinds

__all__ = ["refusals_in_one_line"]

FORMS = {
    "INT": "a whole number",
    "FLOAT": "a number",
    "{INT INT}": "two whole numbers",
    "{[INT [INT ...]]}": "whole numbers",
    "[INT [INT ...]]": "whole numbers",
    "[FLOAT [FLOAT ...]]": "numbers",
}
COLOUR = r"\x1b\[[0-9;]*m"


class _Entry(NamedTuple):
    """An argument as shown by --help."""

    invocation: str  # --latent INT, or PATH
    about: str

    @property
    def name(self) -> str:
        return self.invocation.split(", ")[0].split(" ")[0]


class _Text(StringIO):
    """Captured output of the parser, which draws boxes because the encoding is UTF-8."""

    encoding = "utf-8"

    def restart(self, text: str) -> None:
        """Replace what has been written."""
        self.seek(0)
        self.truncate()
        self.write(text)


@contextmanager
def refusals_in_one_line(words: list[str], command: str) -> Iterator[None]:
    """Turn an error that the parser prints in a box before it ends the program into a one-line error.

    Args:
        words: the words that are parsed.
        command: name of the command.

    Raises:
        FlowvaeError: for invalid arguments; the original error, if a part does not accept its settings.
    """
    if {"-h", "--help"} & set(words):
        yield
        return
    printed, said = _Text(), _Text()
    try:
        with redirect_stdout(printed), redirect_stderr(said), _wide():
            yield
    except SystemExit as ended:
        before, top, box = said.getvalue().partition("╭")
        if not ended.code or not top:
            raise
        said.restart(before)
        _refuse(re.sub(COLOUR, "", box), ended, words, command)
    finally:
        print(printed.getvalue(), end="")
        print(said.getvalue(), end="", file=sys.stderr)  # such as warnings


@contextmanager
def _wide() -> Iterator[None]:
    """Keep the parser from breaking lines at the width of the terminal."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _refuse(box: str, ended: SystemExit, words: list[str], command: str) -> NoReturn:
    lines = [line[2:-2] for line in box.splitlines() if line.startswith("│")]
    sections: list[list[str]] = [[]]
    for line in lines:
        if not line.strip("─ ") and line.strip():  # a rule
            sections.append([])
        elif line.strip():
            sections[-1].append(line)
    first = sections[0][0].strip() if sections[0] else ""
    help_ = f"flowvae {command} --help explains it."
    if first.startswith("Error parsing "):
        name, _, message = first.removeprefix("Error parsing ").partition(": ")
        option = name.split("/")[0]
        own = _own_error(ended)
        if own is not None:
            raise FlowvaeError(f"{option} {own}" if option.startswith("-") else str(own)) from None
        entries = _entries(sections[1][1:]) if len(sections) > 1 else []
        if not option.startswith("-") or not entries:
            raise FlowvaeError(f"{name}: {one_line(message).rstrip('.')}; {help_}") from None
        value = " ".join(_values(words, option))
        rule = _rule(entries[0].invocation.partition(" ")[2])
        raise FlowvaeError(f"{option} {shown(value)}: must be {rule} ({one_line(entries[0].about, 160)}).") from None
    if first.startswith("Missing from "):
        asked = "; ".join(f"{entry.invocation} ({entry.about})" for entry in _entries(sections[0][1:]))
        raise FlowvaeError(f"{command}: needs {asked}; flowvae {command} --help explains all.") from None
    if first.startswith("Missing value for argument "):
        raise FlowvaeError(f"{first.split(chr(39))[1]}: needs a value after it; {help_}") from None
    if first.startswith("Unrecognized options: "):
        unknown = first.removeprefix("Unrecognized options: ").split(", ")
        meant = _entries(sections[1][1:]) if len(sections) > 2 else []
        near = f"did you mean {' or '.join(entry.name for entry in meant[:3])}? " if meant else ""
        if part := re.fullmatch(r"(\w[\w.-]*)=(\S+)", unknown[0]):
            known = any(part[2] in families(kind) for kind in kinds())
            near = f"did you mean {part[1]}:{part[2]}? " if known else f"did you mean --{part[1]} {part[2]}? "
        raise FlowvaeError(
            f"{command}: no argument {shown(unknown[0])}; {near}flowvae {command} --help lists all."
        ) from None
    raise FlowvaeError(f"{one_line(' '.join(sections[0])).rstrip('.')}; {help_}") from None


def _own_error(ended: BaseException | None) -> FlowvaeError | None:
    """Return the error of a part or a likelihood that made the parser end the program, if there is one."""
    while ended is not None and not isinstance(ended, FlowvaeError):
        ended = ended.__context__
    return ended


def _entries(lines: list[str]) -> list[_Entry]:
    """Parse arguments with their explanations, which are indented more, or follow a first line."""
    found: list[_Entry] = []
    margins = [len(line) - len(line.lstrip()) for line in lines]
    for line, margin in zip(lines, margins, strict=True):
        if margin == margins[0] and (not found or max(margins) > margins[0]):
            found.append(_Entry(line.strip(), ""))
        else:
            found[-1] = _Entry(found[-1].invocation, f"{found[-1].about} {line.strip()}".strip())
    return [_Entry(name, re.sub(r" *\((required|default: .*)\)$", "", about).rstrip(".")) for name, about in found]


def _rule(metavar: str) -> str:
    """Describe the valid values of an argument.

    >>> _rule("none|INT|{INT INT}")
    'none, a whole number or two whole numbers'
    """
    forms = [FORMS.get(form, form) for form in metavar.split("|")]
    return " or ".join(filter(None, (", ".join(forms[:-1]), forms[-1])))


def _values(words: list[str], option: str) -> list[str]:
    """Return the values that were given to an option."""
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == option:
            end = next((j for j in range(i + 1, len(words)) if words[j].startswith("--")), len(words))
            return [value] if equals else words[i + 1 : end]
    return []
