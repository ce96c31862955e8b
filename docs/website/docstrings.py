"""Conversion of docstrings to reStructuredText: tables, code spans, formulas and indented blocks."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Iterator

SECTION = re.compile(r"(Args|Arguments|Attributes|Raises|Returns|Yields|References|Note|Example)s?:$")
TABLE_ROW = re.compile(r"\s*\|.*\|\s*$")
RULE = re.compile(r"\s*\|(\s*:?-+:?\s*\|)+\s*$")
EMPHASIS = re.compile(r"(?<![\w*])\*([A-Za-z](?:[\w -]*\w)?)\*(?![\w*])")
SPAN = re.compile(r"(``.+?``|:[a-z:]+:`[^`]+`|`[^`]+`)", re.DOTALL)

Link = Callable[[str], "str | None"]


def to_rst(lines: list[str], link: Link = lambda name: None) -> list[str]:
    """Converts a docstring to reStructuredText.

    Args:
        lines: lines of the docstring, without the indentation of the source.
        link: maps the name in a code span to the full name of an object, or to None.

    """
    out: list[str] = []
    for kind, block in _blocks(lines):
        if kind == "text":
            out += _inline("\n".join(block), link).split("\n")
        elif kind == "table":
            out += _table(block, link)
        elif kind == "code":
            out += _code(block)
        else:
            out += block
    return out


def _blocks(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields blocks of consecutive lines of one kind: text, table, code (indented) or doctest."""
    number, sectioned, above = 0, False, 0
    while number < len(lines):
        line, start = lines[number], number
        after_blank = number == 0 or not lines[number - 1].strip()
        indent = len(line) - len(line.lstrip())
        if line.lstrip().startswith(">>>"):
            while number < len(lines) and lines[number].strip():
                number += 1
            yield "doctest", lines[start:number]
        elif TABLE_ROW.match(line) and number + 1 < len(lines) and RULE.match(lines[number + 1]):
            while number < len(lines) and TABLE_ROW.match(lines[number]):
                number += 1
            yield "table", lines[start:number]
        elif line.strip() and after_blank and indent >= above + 4 and not sectioned:
            while number < len(lines) and (not lines[number].strip() or lines[number].startswith(" " * (above + 4))):
                number += 1
            yield "code", lines[start:number]
        else:
            if line.strip():
                above = indent
                sectioned = bool(SECTION.match(line.strip())) or (sectioned and indent > 0)
            number += 1
            yield "text", [line]


def _inline(text: str, link: Link) -> str:
    return "".join(_span(part, link) if number % 2 else _escaped(part) for number, part in enumerate(SPAN.split(text)))


def _span(span: str, link: Link) -> str:
    if span.startswith((":", "``")):
        return span
    name = span.strip("`")
    target = link(name.removesuffix("()"))
    return f":py:obj:`{name.removesuffix('()')} <{target}>`" if target else f"``{name}``"


def _escaped(text: str) -> str:
    """Escapes plain text, except *emphasis*."""
    parts = EMPHASIS.split(text)
    plain = [re.sub(r"([\\*|]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
    out = plain[0]
    for word, rest in zip(parts[1::2], plain[1:], strict=True):
        out += f"*{word}*{rest}"
    return out


def _table(rows: list[str], link: Link) -> list[str]:
    indent = " " * (len(rows[0]) - len(rows[0].lstrip()))
    out = ["", f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""]
    for row in rows[:1] + rows[2:]:
        cells = re.split(r"(?<!\\)\|", row.strip()[1:-1])
        for number, cell in enumerate(cells):
            lead = "* -" if number == 0 else "  -"
            out.append(f"{indent}   {lead} {_inline(cell.strip().replace(chr(92) + '|', '|'), link)}".rstrip())
    return [*out, ""]


def _code(block: list[str]) -> list[str]:
    text = textwrap.dedent("\n".join(block)).strip("\n")
    try:
        ast.parse(text)
        language = "python"
    except SyntaxError:
        language = "none"
    indent = " " * (len(block[0]) - len(block[0].lstrip()) - 4)
    return ["", f"{indent}.. code-block:: {language}", "", *textwrap.indent(text, indent + "   ").split("\n"), ""]
