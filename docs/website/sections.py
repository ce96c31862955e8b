"""Sections of notebooks: `5 · Planar` on the course page becomes a link to the section of notebook 5 that begins so.

A section that is renamed or missing stops the build, so that the course page stays right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import nbformat

from website.paths import MissingError

HEADING = re.compile(r"^## (\d+)\. (.*)$", re.MULTILINE)
MENTION = re.compile(r"(?<=[|;] )(\d{1,2}|how-to) · ([^|;\n]+?)(?= *[|;])")


def label(path: Path, number: str) -> str:
    """The name of a section, of a notebook and in all pages.

    Args:
        path: the notebook.
        number: of the section.

    """
    return f"section-{path.stem.partition('_')[0]}-{number}"


def marked(text: str, path: Path) -> str:
    """The text of a cell with a target in front of every numbered section.

    Args:
        text: Markdown.
        path: the notebook that it is from.

    """
    return HEADING.sub(lambda found: f"({label(path, found[1])})=\n{found[0]}", text)


def with_links(text: str, notebooks: Iterable[Path]) -> str:
    """The text of the course page with links in place of mentions such as `5 · Planar` in its tables.

    Args:
        text: Markdown.
        notebooks: all notebooks.

    Raises:
        MissingError: a notebook has no such section, or several.

    """
    known = {key(path): path for path in notebooks}

    def link(found: re.Match[str]) -> str:
        path = known.get(found[1])
        every = sections(path) if path else {}
        numbers = [number for number, heading in every.items() if heading.startswith(found[2])]
        if path is None or len(numbers) != 1:
            raise MissingError(
                f"the course page mentions {found[0]!r}: {len(numbers)} sections begin so, of {[*every.values()]}"
            )
        return f"[{found[0]}](#{label(path, numbers[0])})"

    return MENTION.sub(link, text)


def key(path: Path) -> str:
    """How the course page calls a notebook: its number, or how-to.

    Args:
        path: the notebook.

    """
    number = path.stem.partition("_")[0]
    return str(int(number)) if number.isdigit() else "how-to"


def sections(path: Path) -> dict[str, str]:
    """The headings of a notebook's numbered sections.

    Args:
        path: the notebook.

    """
    cells = nbformat.read(path, as_version=4).cells
    return {
        number: text for cell in cells if cell.cell_type == "markdown" for number, text in HEADING.findall(cell.source)
    }


def title(path: Path) -> str:
    """A notebook's title with its number, in short.

    Args:
        path: the notebook.

    """
    found = re.search(r"^# +(.*)$", nbformat.read(path, as_version=4).cells[0].source, re.MULTILINE)
    heading = short(found[1].strip()) if found else path.stem
    return heading if key(path) == "how-to" else f"{key(path)}. {heading}"


def short(heading: str) -> str:
    """A heading up to its colon, or its first question.

    Args:
        heading: the whole of it.

    """
    return re.split(r"(?<=\?) |: ", heading)[0]
