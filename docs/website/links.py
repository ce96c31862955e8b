"""Checks the built pages: internal links, anchors and pictures, and that nothing is loaded from the network."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# elements and attributes that a browser fetches when it shows a page, unlike links
FETCHED = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "img": ("src",),
    "input": ("src",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src",),
    "video": ("src", "poster"),
}
SHEETS = {"stylesheet", "icon", "preload", "modulepreload", "apple-touch-icon"}


@dataclass
class Page:
    """The links, fetched files and anchors of a page."""

    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)


@dataclass
class Findings:
    """The result of a check of all pages."""

    pages: int = 0
    internal: int = 0
    broken: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    external: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class _Reader(HTMLParser):
    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.page.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.page.links.append(values["href"])
        elif tag == "link" and SHEETS & set(values.get("rel", "").split()):
            self.page.fetched.append(values.get("href", ""))
        for name in FETCHED.get(tag, ()):
            if name in values:
                self.page.fetched.append(values[name])
        for part in values.get("srcset", "").split(", ") if "srcset" in values else ():
            self.page.fetched.append(part.split()[0])

    handle_startendtag = handle_starttag


def read(path: Path) -> Page:
    """Reads the links, fetched files and anchors of a page.

    Args:
        path: the HTML file.

    """
    page = Page()
    _Reader(page).feed(path.read_text(encoding="utf-8"))
    return page


def check(folder: Path) -> Findings:
    """Checks all pages of a folder. Links to other sites are counted, but not fetched.

    Args:
        folder: the built site.

    """
    folder = folder.resolve()
    files = sorted(path for path in folder.rglob("*.html") if "_static" not in path.relative_to(folder).parts)
    pages = {path: read(path) for path in files}
    findings = Findings(pages=len(pages))
    for path, page in pages.items():
        name = path.relative_to(folder)
        for target in [*page.links, *page.fetched]:
            parts = urlsplit(target)
            if parts.scheme in ("http", "https") or target.startswith("//"):
                findings.external[target] += 1
                if target in page.fetched:
                    findings.loaded.append(f"{name}: {target}")
                continue
            if parts.scheme:  # mailto:, data:
                continue
            findings.internal += 1
            if reason := _fault(folder, pages, path, unquote(parts.path), unquote(parts.fragment)):
                findings.broken.append(f"{name}: {target} ({reason})")
    for sheet in sorted(folder.rglob("*.css")):
        findings.loaded += [f"{sheet.relative_to(folder)}: {url}" for url in _fetched_by_sheet(sheet)]
    return findings


def _fault(folder: Path, pages: dict[Path, Page], source: Path, path: str, fragment: str) -> str:
    """Returns the reason why a link is broken; empty if it is valid."""
    target = source if not path else (source.parent / path).resolve()
    if target.is_dir():
        target = target / "index.html"
    if not target.is_relative_to(folder):
        return "outside the site"
    if not target.is_file():
        return "no such file"
    if fragment and target in pages and fragment not in pages[target].anchors:
        return "no such anchor"
    return ""


def _fetched_by_sheet(sheet: Path) -> list[str]:
    text = sheet.read_text(encoding="utf-8", errors="replace")
    found = [part.split(")")[0].strip("\"' ") for part in text.split("url(")[1:]]
    found += [part.split(";")[0].strip("\"' ") for part in text.split("@import ")[1:] if not part.startswith("url(")]
    return [url for url in found if url.startswith(("http:", "https:", "//"))]
