"""Collects the pages in one folder with the structure of the repository, so that their links stay valid."""

from __future__ import annotations

import html
import posixpath
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import nbformat

from website.paths import PLACEHOLDER, ROOT, SOURCE, MissingError, repository
from website.reference import ROOMS, write_reference
from website.sections import marked, title, with_links

PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")
LINK = re.compile(r"(\]\()(?![a-z]+:|#|/)([^)\s#]+)((?:#[^)\s]*)?\))")
TARGET = re.compile(r"(^:link: |^```\{literalinclude\} )(?!https?:)(\S+)()", re.MULTILINE)
PAGE = re.compile(r"\[([^\]]*)\]\((?![a-z]+:)([^)\s]+\.html)\)")
MERMAID = re.compile(r"^```mermaid\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
WIDGET = "application/vnd.jupyter.widget-view+json"
SLIDERS = "<p><em>Sliders move when you run the notebook.</em></p>"


def notebooks(root: Path = ROOT) -> list[Path]:
    """Returns the notebooks in reading order; how-tos come last.

    Args:
        root: root of the repository.

    """
    return sorted((root / "notebooks").glob("*.ipynb"), key=lambda path: (not path.name[0].isdigit(), path.name))


def assemble(done: Iterable[Path], source: Path = SOURCE, root: Path = ROOT) -> Path:
    """Writes the folder that Sphinx reads, after deleting an earlier one.

    Args:
        done: executed notebooks; others appear without outputs.
        source: the folder to write.
        root: root of the repository.

    Returns:
        The folder.

    Raises:
        MissingError: a page links to a file that does not exist.

    """
    for folder in (source, source.with_name("extra")):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    outputs = {path.name: path for path in done}
    for path in [*(root / name for name in PAGES), *_documents(root)]:
        place = source / path.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        text = _prepared(path.read_text(), path, root, source)
        place.write_text(with_links(text, notebooks(root)) if path.name == "course.md" else text)
    (source / "docs" / "index.md").rename(source / "index.md")
    for path in notebooks(root):
        _notebook(outputs.get(path.name, path), path, root, source)
    write_reference(source / "reference")
    with (source / "index.md").open("a") as index:
        index.write("\n".join(contents(source)))
    return source


def _documents(root: Path) -> list[Path]:
    folders = {path.parent for path in (root / "docs").rglob("*.md")}
    pages = {path for folder in folders if "answers" not in folder.parts for path in folder.glob("*.md")}
    return sorted(pages)


def _prepared(text: str, path: Path, root: Path, source: Path) -> str:
    """Inserts the repository's address into a page, adjusts its links, and copies the files that it shows."""
    first = path == root / "docs" / "index.md"  # it becomes the start page
    address = repository().removeprefix("https://github.com/")
    text = text.replace(PLACEHOLDER, repository()).replace("/github/OWNER/flowvae/", f"/github/{address}/")
    text = MERMAID.sub(lambda found: _chain(found[1]), text)
    text = PAGE.sub(lambda found: _as_it_is(found[1], found[2], path, root, source), text)

    def replace(found: re.Match[str]) -> str:
        target = _target(found[2], found[3], path, root, source)
        if first and not target.startswith("http"):
            target = posixpath.normpath(posixpath.join("docs", target))
        return found[1] + target + found[3]

    return TARGET.sub(replace, LINK.sub(replace, text))


def _target(target: str, anchor: str, path: Path, root: Path, source: Path) -> str:
    """Copies the file that a link leads to, unless it is a page; folders and README.md link to the repository."""
    file = Path(posixpath.normpath(path.parent / target))
    inside = file.relative_to(root)
    if file.suffix in (".md", ".ipynb") and inside.parts[0] in ("docs", "notebooks", *PAGES) and file.is_file():
        return target
    if (source / inside).is_file():
        return target
    if inside.parts[0] == "reference" or (not file.suffix and file.with_suffix(".md").is_file()):
        return target  # a page that `assemble` generates, or a page name without suffix
    if file.is_dir() or (file.name == "README.md" and file.is_file()):
        kind = "tree" if file.is_dir() else "blob"
        return f"{repository()}/{kind}/main/{inside}"
    if not file.is_file():
        raise MissingError(f"{path.relative_to(root)} links to {target}, which does not exist")
    (source / inside).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, source / inside)
    return target


def _as_it_is(text: str, target: str, path: Path, root: Path, source: Path) -> str:
    """Returns a link to an HTML file of the repository, which is copied to the site unchanged."""
    file = Path(posixpath.normpath(path.parent / target))
    if not file.is_file():
        raise MissingError(f"{path.relative_to(root)} links to {target}, which does not exist")
    place = source.with_name("extra") / file.relative_to(root)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, place)
    return f'<a href="{target}">{text}</a>'


def _notebook(outputs: Path, path: Path, root: Path, source: Path) -> None:
    notebook = nbformat.read(outputs, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = marked(_prepared(cell.source, path, root, source), path)
        else:
            cell.source = cell.source.replace(PLACEHOLDER, repository())
        for output in cell.get("outputs", []):
            if WIDGET in output.get("data", {}):
                output.data = nbformat.from_dict({"text/html": SLIDERS, "text/plain": ""})
    notebook.metadata.pop("widgets", None)
    place = source / path.relative_to(root)
    place.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, place)


def _chain(text: str) -> str:
    """Converts a Mermaid flow chart that is one chain, `a --> b & c`, to HTML without a script."""
    steps: list[str] = []
    for line in text.strip().splitlines()[1:]:
        for step in line.split("-->"):
            if not steps or steps[-1] != step.strip():
                steps.append(step.strip())
    boxes = ["".join(f"<span>{html.escape(name.strip())}</span>" for name in step.split("&")) for step in steps]
    return '<div class="chain">' + "<b>→</b>".join(f"<div>{box}</div>" for box in boxes) + "</div>\n"


def contents(source: Path) -> Iterator[str]:
    """Yields the tables of contents of the site, as hidden toctrees.

    Args:
        source: the assembled folder.

    """
    course = [path for path in notebooks(source) if path.name[0].isdigit()]
    how_to = [f"docs/how_to/{path.stem}" for path in sorted((source / "docs" / "how_to").glob("*.md"))]
    swap = [f"notebooks/{path.stem}" for path in notebooks(source) if not path.name[0].isdigit()]
    chapters = {
        "Course": [
            "docs/course",
            *(f"{title(path)} <notebooks/{path.stem}>" for path in course),
            "docs/notation",
            "docs/cheat_sheet",
            "docs/glossary",
        ],
        "How to": ["docs/how_to/index", *(page for page in how_to if not page.endswith("/index")), *swap],
        "Results": ["docs/results", "docs/speed", "docs/growth"],
        "Explanation": ["docs/priors", "docs/images", "docs/architecture"],
        "Reference": ["reference/index", *(f"{room} <reference/{room}>" for room in ROOMS)],
        "Project": ["CONTRIBUTING", "CHANGELOG"],
    }
    known = {page for pages in chapters.values() for page in pages}
    rest = sorted(f"docs/{path.stem}" for path in (source / "docs").glob("*.md"))
    chapters["Explanation"] += [page for page in rest if page not in known]
    for caption, pages in chapters.items():
        yield from ("", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", "")
