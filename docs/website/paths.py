"""Paths of the site, and the address of the repository."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "site"
EXECUTED = BUILD / "executed"
SOURCE = BUILD / "source"
HTML = BUILD / "html"
PLACEHOLDER = "https://github.com/OWNER/flowvae"  # as written in pages, badges and notebooks


class MissingError(Exception):
    """A page links to a file or a section that does not exist."""


def repository() -> str:
    """Returns the repository's address, from `[project.urls]` of pyproject.toml."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("urls", {})
    return str(urls.get("Repository", PLACEHOLDER)).rstrip("/")
