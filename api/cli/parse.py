"""Parsing of command-line arguments into the dataclass of a command, by tyro."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, make_dataclass
from typing import Annotated, Any, NoReturn, get_args

import tyro

from flowvae.cli.refusals import refusals_in_one_line
from flowvae.core.parts import LikelihoodSpec, parse_likelihood
from flowvae.core.registry import families

__all__ = ["likelihood_forms", "one_of", "parse", "print_help"]

_NONE = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="none",
    choices=("none", "None"),
    instance_from_str=lambda words: None,
    is_instance=lambda value: value is None,
    str_from_instance=lambda value: ["none"],
)


def likelihood_forms() -> dict[str, str]:
    """Return the text forms of all registered likelihoods by name: bernoulli, binomial:TOTAL, …."""
    return {family.name: family.type.form() for family in families("likelihood").values()}


def parse(kind: type, words: list[str], command: str, default: Any = None, description: str | None = None) -> Any:
    """Parse the arguments of a command; --help ends the program.

    The parts in `default` determine which settings exist.

    Args:
        kind: the dataclass of the command.
        words: the command-line words, without those that name parts.
        command: name of the command.
        default: an object of the class, with the values of arguments that are not given.
        description: the description for --help; None: the docstring of the class.

    Raises:
        FlowvaeError: for an unknown argument, and a value that an argument or a part does not accept.
    """
    given = {} if default is None else {"default": default}
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(lambda info: _likelihood(info.type))
    registry.primitive_rule(lambda info: _NONE if info.type in (None, type(None)) else None)
    with refusals_in_one_line(words, command), registry, warnings.catch_warnings():
        # the flow inside a FlowGuide is annotated by a type variable; its class comes from the default
        warnings.filterwarnings("ignore", "Could not resolve type parameter")
        return tyro.cli(
            kind,
            args=words,
            prog=f"flowvae {command}",
            description=description,
            config=(tyro.conf.AvoidSubcommands,),
            **given,
        )


def print_help(command: str, parts: Mapping[str, Any]) -> NoReturn:
    """Print the settings of parts, and end the program.

    Args:
        command: the command in which they were named.
        parts: the parts with default settings, by the words that name them, such as "prior:maf".
    """
    settings: list[Any] = []
    for number, (word, part) in enumerate(parts.items()):
        kind: Any = Annotated[type(part), tyro.conf.arg(name=word.partition(":")[0])]
        settings.append((f"part{number}", kind, field(default=part)))
    parse(make_dataclass("Settings", settings), ["--help"], command, description=f"Settings of {', '.join(parts)}.")
    sys.exit()  # not reached: tyro ends the program after --help


def one_of(names: Callable[[], Iterable[str]]) -> Callable[[], Any]:
    """Return a tyro constructor of a string whose help lists the names that are registered at parse time."""

    def word() -> Any:
        return Annotated[
            str,
            tyro.constructors.PrimitiveConstructorSpec(
                nargs=1,
                metavar="|".join(names()),
                instance_from_str=lambda words: words[0],
                is_instance=lambda value: isinstance(value, str),
                str_from_instance=lambda value: [value],
            ),
        ]

    return word


def _likelihood(kind: Any) -> Any:
    """Return the rule for a likelihood, or an optional likelihood, in text form; None for other types."""
    kinds = set(get_args(kind) or (kind,))
    optional = type(None) in kinds
    (one, *others) = kinds - {type(None)} or (None,)
    if others or not (isinstance(one, type) and issubclass(one, LikelihoodSpec)):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="|".join([*(["none"] if optional else []), *likelihood_forms().values()]),
        instance_from_str=lambda words: None if optional and words[0].lower() == "none" else parse_likelihood(words[0]),
        is_instance=lambda value: isinstance(value, LikelihoodSpec) or (optional and value is None),
        str_from_instance=lambda value: ["none" if value is None else str(value)],
    )
