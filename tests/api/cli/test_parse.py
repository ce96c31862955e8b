"""Words to settings by tyro: likelihoods as text, none, help of one part."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowvae import FlowvaeError
from flowvae.cli.parse import likelihood_forms, parse, print_help
from flowvae.core.parts import LikelihoodSpec, parse_likelihood
from flowvae.core.registry import families
from flowvae.flows import MAF
from flowvae.models import FlowDecoder
from flowvae.networks import MLP


@dataclass(frozen=True)
class Settings:
    """What is parsed here.

    Args:
        likelihood: of the data.
        clip: a number or none.
        latent: a number or a shape.
        file: a path or none.
    """

    likelihood: LikelihoodSpec
    clip: float | None = 1.0
    latent: int | tuple[int, ...] = 8
    file: Path | None = None


@dataclass(frozen=True)
class Noisy:
    """What writes to standard error when it is made.

    Args:
        number: a number.
    """

    number: int = 0

    def __post_init__(self) -> None: ...


@dataclass(frozen=True)
class Unlike:
    """What may have no likelihood.

    Args:
        likelihood: of the data.
    """

    likelihood: LikelihoodSpec | None = None


def test_every_likelihood_has_a_text_form_that_is_read() -> None:
    @dataclass(frozen=True)
    class Own(type(families("likelihood")["bernoulli"].default), name="own"):  # type: ignore[misc]
        share: float = 0.5

    forms = likelihood_forms()
    assert list(forms) == list(families("likelihood"))
    assert forms["bernoulli"] == "bernoulli"
    assert forms["binomial"] == "binomial:TOTAL"
    assert forms["gaussian"] == "gaussian[:SCALE]"
    assert forms["own"] == "own[:SHARE]"
    for text in ("binomial:3", "categorical:4", "poisson", "gaussian:shared", "gaussian:0.5", "own:0.25"):
        found = parse(Settings, ["--likelihood", text], "train")
        assert found.likelihood == parse_likelihood(text)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--clip none", {"clip": None}),
        ("--clip None", {"clip": None}),
        ("--clip 0.5", {"clip": 0.5}),
        ("--latent 3", {"latent": 3}),
        ("--latent 4 7 7", {"latent": (4, 7, 7)}),
        ("--file none", {"file": None}),
        ("--file x.yaml", {"file": Path("x.yaml")}),
    ],
)
def test_a_union_takes_the_words_of_its_types(words: str, expected: dict[str, object]) -> None:
    found = parse(Settings, ["--likelihood", "poisson", *words.split()], "train")
    assert {name: getattr(found, name) for name in expected} == expected


def test_help_of_parts_shows_their_settings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as info:
        print_help("train", {"encoder:mlp": MLP(), "decoder:flow-decoder": FlowDecoder(MAF())})
    assert info.value.code == 0
    said = capsys.readouterr().out
    assert "encoder:mlp, decoder:flow-decoder" in said
    assert "--encoder.hidden-features" in said
    assert "--decoder.flow.transforms" in said
    assert "--decoder.network.hidden-features" in said
    with pytest.raises(SystemExit):
        parse(Settings, ["--help"], "train")
    assert "binomial:TOTAL" in capsys.readouterr().out


def test_what_a_part_warns_of_is_said_although_the_parser_is_silent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Noisy, "__post_init__", lambda self: print(f"number {self.number}", file=sys.stderr))
    assert parse(Noisy, ["--number", "3"], "train").number == 3
    assert capsys.readouterr() == ("", "number 3\n")
    with pytest.raises(FlowvaeError, match="'x'"):
        parse(Noisy, ["--number", "x"], "train")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("text", ["none", "None"])
def test_a_likelihood_that_may_be_none(text: str) -> None:
    assert parse(Unlike, ["--likelihood", text], "train").likelihood is None
    assert str(parse(Unlike, ["--likelihood", "binomial:3"], "train").likelihood) == "binomial:3"
    with pytest.raises(FlowvaeError, match=r"'binomal'.*binomial\?"):
        parse(Unlike, ["--likelihood", "binomal:3"], "train")
