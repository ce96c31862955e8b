"""YAML reader for settings: names and plain values without ambiguity."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.events import AliasEvent

from flowvae.core.errors import FlowvaeError, one_line

__all__ = ["read_yaml"]

LARGEST = 100_000  # bytes; settings take a few thousand
DEEPEST = 20  # levels of nesting; settings take five
LONGEST = 100  # characters of a number
TAG = "tag:yaml.org,2002:"

# Plain scalars of YAML 1.2's core schema, except those that PyYAML, which writes YAML 1.1, regards as text: so every
# text that PyYAML writes is read back as text. Dates, 1:30, 1_000, yes and on are text.
SCALARS = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9]*|0[0-7]+)|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"(?:[-+]?[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader; tags, aliases (and thus merge keys) and deep nesting are errors."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (those of SCALARS)
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, AliasEvent):
            raise _mistake(event.start_mark, f"the alias *{event.anchor}: write the value itself")
        if event.tag is not None:
            raise _mistake(event.start_mark, f"the tag {event.tag}: use plain values, without tags such as !!python")
        if self.depth == DEEPEST:
            raise _mistake(event.start_mark, f"more than {DEEPEST} levels of nesting")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _name, (_pattern, _first) in SCALARS.items():
    # an empty scalar has no first character
    _Loader.add_implicit_resolver(TAG + _name, re.compile(rf"(?:{_pattern})\Z"), [*_first, ""])


def read_yaml(path: Path) -> dict[str, Any]:
    """Read settings by name from a YAML file.

    Numbers follow YAML 1.2. Errors are numbers that two versions of YAML read differently (010), repeated keys, tags,
    aliases, merge keys, and keys that are not names.

    Args:
        path: a file of UTF-8 text.

    Raises:
        FlowvaeError: for a file that cannot be read, or one of these errors, with the line.
    """
    where = one_line(path)
    content = _content(path, where)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FlowvaeError(f"{where}: not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    try:
        node = _Loader(text).get_single_node()
        plain = None if node is None else _value(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        said = " ".join(filter(None, (getattr(error, "context", ""), getattr(error, "problem", "")))) or error
        raise FlowvaeError(f"{where}{line}: not plain YAML: {one_line(said).rstrip('.')}.") from None
    if not isinstance(plain, dict):
        raise FlowvaeError(f"{where}: must contain settings by name, such as 'latent: 8'.")
    return plain


def _content(path: Path, where: str) -> bytes:
    try:
        if path.is_dir():
            raise FlowvaeError(f"{where}: is a directory; name the YAML file in it.")
        if not path.is_file():
            raise FlowvaeError(f"{where}: no such file; a run keeps its settings in experiment.yaml.")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise FlowvaeError(f"{where}: cannot be read ({error.strerror}).") from None
    if len(content) > LARGEST:
        raise FlowvaeError(f"{where}: larger than {LARGEST:,} bytes; settings take a few thousand.")
    return content


def _value(node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node)
    if isinstance(node, yaml.SequenceNode):
        return [_value(child) for child in node.value]
    kind, text = node.tag.removeprefix(TAG), node.value
    if kind in ("int", "float"):
        return _number(node, text)
    return {"null": None, "bool": text.lower() == "true"}.get(kind, text)


def _mapping(node: yaml.MappingNode) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in node.value:
        name = key.value
        if key.tag != f"{TAG}str":
            said = name if isinstance(name, str) else "that is a list or mapping"
            raise _mistake(key.start_mark, f"the key {said or 'without a name'}: a key is the name of a setting")
        if name in mapping:
            raise _mistake(key.start_mark, f"the key {one_line(name, 60)} occurs twice; keep one of them")
        mapping[name] = _value(value)
    return mapping


def _number(node: yaml.Node, text: str) -> int | float:
    if len(text) > LONGEST:
        raise _mistake(node.start_mark, f"a number of {len(text)} characters; settings have less than {LONGEST}")
    if re.fullmatch(r"[-+]?0[0-7]+", text):
        decimal, octal = int(text, 10), int(text, 8)
        raise _mistake(node.start_mark, f"{text}: can be read as {decimal} or, in base 8, {octal}; write one of them")
    if node.tag == f"{TAG}int":
        return int(text, 0)
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _mistake(mark: Any, what: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=mark)
