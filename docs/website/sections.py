"""Links to sections of notebooks: `5 · Planar` on the course page links to that section of notebook 5.

A renamed or missing section stops the build, so that the course page stays correct.
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
    """Returns the label of a section, which is unique in the site.

    Args:
        path: the notebook.
        number: number of the section.

    """
    return f"section-{path.stem.partition('_')[0]}-{number}"


def marked(text: str, path: Path) -> str:
    """Inserts a link target before every numbered section in a cell.

    Args:
        text: the cell's Markdown.
        path: the notebook.

    """
    return HEADING.sub(lambda found: f"({label(path, found[1])})=\n{found[0]}", text)


def with_links(text: str, notebooks: Iterable[Path]) -> str:
    """Replaces mentions such as `5 · Planar` in the tables of the course page by links.

    Args:
        text: the page's Markdown.
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
    """Returns the name of a notebook on the course page: its number, or how-to.

    Args:
        path: the notebook.

    """
    number = path.stem.partition("_")[0]
    return str(int(number)) if number.isdigit() else "how-to"


def sections(path: Path) -> dict[str, str]:
    """Returns the headings of a notebook's numbered sections, by number.

    Args:
        path: the notebook.

    """
    cells = nbformat.read(path, as_version=4).cells
    return {
        number: text for cell in cells if cell.cell_type == "markdown" for number, text in HEADING.findall(cell.source)
    }


def title(path: Path) -> str:
    """Returns a notebook's shortened title with its number.

    Args:
        path: the notebook.

    """
    found = re.search(r"^# +(.*)$", nbformat.read(path, as_version=4).cells[0].source, re.MULTILINE)
    heading = short(found[1].strip()) if found else path.stem
    return heading if key(path) == "how-to" else f"{key(path)}. {heading}"


def short(heading: str) -> str:
    """Returns a heading up to its colon, or its first question.

    Args:
        heading: the whole heading.

    """
    return re.split(r"(?<=\?) |: ", heading)[0]
