"""Words that name parts, in any order and at any depth."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from flowvae import (
    IAF,
    MAF,
    NSF,
    Condition,
    Experiment,
    FlowDecoder,
    FlowGuide,
    FlowvaeError,
    Inverse,
    LatentVariablePrior,
    Mixture,
    PriorSpec,
    RealNVP,
    StandardNormal,
)
from flowvae.cli.training import SHARED, Train, read_words
from flowvae.cli.words import choose_parts, is_choice
from flowvae.inference.schedules import Cosine
from flowvae.networks import MLP, Conv, ResNet

BASE = Experiment()


def read(line: str, base: Experiment = BASE) -> Experiment:
    """The experiment that words describe."""
    train = Train(out=Path("run"), **{name: getattr(base, name) for name in SHARED})
    args = read_words(line.split(), "train", train)
    return replace(base, **{name: getattr(args, name) for name in SHARED})


def refused(line: str, base: Experiment = BASE) -> str:
    with pytest.raises(FlowvaeError) as info:
        read(line, base)
    said = str(info.value)
    assert "\n" not in said
    return said


PIECES = [
    "prior:maf",
    "--prior.transforms 5",
    "guide:inverse-nsf",
    "--guide.base full-rank --guide.bins 3",
    "--latent 2",
]


@pytest.mark.parametrize("pieces", list(permutations(PIECES)), ids=" ".join)
def test_words_come_in_any_order(pieces: tuple[str, ...]) -> None:
    guide = FlowGuide(Inverse(NSF(bins=3)), base="full-rank")
    assert read(" ".join(pieces)) == Experiment(latent=2, prior=MAF(transforms=5), guide=guide)


CASES = {
    "": Experiment(),
    "--latent 4 7 7": Experiment(latent=(4, 7, 7)),
    "--latent 9": Experiment(latent=9),
    "encoder:conv --encoder.channels 16 32 decoder:resnet": Experiment(
        encoder=Conv(channels=(16, 32)), decoder=ResNet()
    ),
    "--encoder.gated --decoder.hidden-features 8": Experiment(encoder=MLP(gated=True), decoder=MLP((8,))),
    "inference.schedule:cosine --inference.schedule.final 0.1": replace(
        BASE, inference=replace(BASE.inference, schedule=Cosine(0.1))
    ),
    "condition:labels prior:maf": Experiment(condition=Condition(), prior=MAF()),
    "condition:covariates prior:maf": Experiment(condition=Condition("covariates"), prior=MAF()),
    "--condition.on covariates --condition.no-prior": Experiment(condition=Condition("covariates", prior=False)),
    "--condition.no-decoder prior:mixture": Experiment(condition=Condition(decoder=False), prior=Mixture()),
    "condition:none": Experiment(),
    "guide:iaf --guide.no-conditioned": Experiment(guide=FlowGuide(IAF(), conditioned=False)),
    "prior:latent-variable --prior.latent 4": Experiment(prior=LatentVariablePrior(4)),
    "prior.decoder:mlp --prior.prior.transforms 1 prior.guide:iaf prior:latent-variable prior.prior:maf "
    "--prior.likelihood gaussian:0.5 --prior.guide.context 2": Experiment(
        prior=LatentVariablePrior(
            prior=MAF(1),
            guide=FlowGuide(IAF(), context=2),
            likelihood=Experiment.from_dict(
                {"prior": {"family": "latent-variable", "likelihood": "gaussian:0.5"}}
            ).prior.likelihood,  # type: ignore[attr-defined]
        )
    ),
    "decoder:flow-decoder decoder.flow:inverse-maf --decoder.flow.transforms 1 decoder.network:conv": Experiment(
        decoder=FlowDecoder(Inverse(MAF(1)), Conv())
    ),
    "--prior.transforms=5 prior:realnvp": Experiment(prior=RealNVP(transforms=5)),
}


@pytest.mark.parametrize(("line", "expected"), CASES.items(), ids=CASES.keys())
def test_what_yaml_can_say_words_can_say(line: str, expected: Experiment) -> None:
    assert read(line) == expected
    assert Experiment.from_dict(expected.to_dict()) == expected


def test_words_change_a_base() -> None:
    base = Experiment(
        prior=LatentVariablePrior(3, prior=NSF(bins=5)), guide=FlowGuide(Inverse(NSF(bins=3))), decoder=FlowDecoder()
    )
    changed = read("--prior.prior.transforms 1 --guide.bins 4 --decoder.network.hidden-features 7", base)
    assert changed == replace(
        base,
        prior=LatentVariablePrior(3, prior=NSF(1, bins=5)),
        guide=FlowGuide(Inverse(NSF(bins=4))),
        decoder=FlowDecoder(network=MLP((7,))),
    )
    assert read("prior:latent-variable", base).prior == LatentVariablePrior()  # a named part has default settings
    conditional = Experiment(prior=MAF(), condition=Condition("covariates", decoder=False))
    assert read("--condition.no-encoder", conditional).condition == Condition(
        "covariates", encoder=False, decoder=False
    )
    assert read("condition:none", conditional).condition is None


def test_settings_without_a_default_are_missing_until_they_are_given() -> None:
    found = read("--data.likelihood binomial:16 data:table --data.path x.csv").data
    assert str(found.likelihood) == "binomial:16"  # type: ignore[attr-defined]
    assert "--data.likelihood" in refused("data:table --data.path x.csv")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("prior:mfa", ("'mfa'", "maf")),
        ("prior:", ("prior", "''")),
        ("prior:planar", ("planar", "cannot be a prior")),
        ("inference.schedule:cos", ("'cos'", "cosine")),
        ("prior:latent-variable prior.decoder:cnv", ("'cnv'", "conv")),
        ("prior:maf prior:nsf", ("'prior:maf'", "'prior:nsf'")),
        ("prior:maf prior:maf", ("'prior:maf'",)),
        ("prior:latent-variable prior.prior:maf prior.prior:nsf", ("prior.prior", "'prior.prior:nsf'")),
        ("prior:maf --prior.bins 3", ("maf", "'bins'", "nsf")),
        ("--prior.bins 3 prior:maf", ("maf", "'bins'", "nsf")),
        ("--prior.bins 3", ("normal", "'bins'", "nsf")),
        ("guide:iaf --guide.flow 3", ("iaf", "'flow'")),
        ("prior:latent-variable --prior.decoder.channels 3", ("mlp", "'channels'", "conv")),
        ("prior:maf prior.decoder:mlp", ("'prior.decoder:mlp'", "MAF")),
        ("prior:latent-variable prior.likelihood:gaussian", ("likelihood", "decoder, encoder, guide")),
        ("inference.epochs:3", ("epochs", "schedule")),
        ("--prior maf", ("--prior", "prior:NAME")),
        ("--inference.schedule cosine", ("inference.schedule:NAME",)),
        ("--condition labels", ("condition:NAME",)),
        ("condition:label", ("'label'", "labels")),
        ("guide:iaf --guide.conditioned true", ("write --guide.conditioned.",)),
        ("--condition.prior False", ("--condition.no-prior",)),
    ],
)
def test_a_wrong_part_or_setting_is_named_with_the_right_one(line: str, parts: tuple[str, ...]) -> None:
    said = refused(line)
    assert all(part in said for part in parts), said


@pytest.mark.parametrize("word", ["binomial:16", "cuda:0", "tcp://host:8786", "r:x", "latent:3", "maf", ":", "out:1"])
def test_a_colon_alone_makes_no_part(word: str) -> None:
    assert not is_choice(word, BASE)
    assert choose_parts([word], BASE).words == [word]


def test_the_base_is_left_as_it_was() -> None:
    base = Experiment(prior=LatentVariablePrior())
    before = {f.name: getattr(base, f.name) for f in fields(base)}
    chosen = choose_parts(["prior.prior:maf", "guide:iaf"], base)
    assert {f.name: getattr(base, f.name) for f in fields(base)} == before
    assert base.prior.prior == StandardNormal()  # type: ignore[attr-defined]
    assert chosen.named == {"prior.prior:maf": MAF(), "guide:iaf": FlowGuide(IAF())}


def test_an_own_part_with_settings_of_any_type() -> None:
    @dataclass(frozen=True)
    class Own(PriorSpec, name="own"):
        inner: PriorSpec = field(default_factory=MAF)
        no_shift: bool = False
        anything: Any = len

        def build(self, features: int, context: int = 0) -> Any:
            return self.inner.build(features, context)

    # tyro and the registry look annotations up in the module
    globals()["Own"] = Own
    try:
        found = read("prior:own prior.inner:nsf --prior.inner.bins 3 --prior.no-shift").prior
    finally:
        del globals()["Own"]
    assert found == Own(NSF(bins=3), no_shift=True)


def test_help_is_about_the_parts_that_were_named(capsys: pytest.CaptureFixture[str]) -> None:
    def said(line: str) -> str:
        with pytest.raises(SystemExit) as info:
            read(line)
        assert info.value.code == 0
        return capsys.readouterr().out

    for word in ("-h", "--help"):
        text = said(f"prior:maf guide:iaf {word} --latent 3")
        assert "--guide.base" in text
        assert "--prior.transforms" in text
        assert "--encoder." not in text
        assert "--latent" not in text
        assert "--prior.transforms" in said(f"{word} guide:iaf prior:maf")
    text = said("prior:latent-variable prior.decoder:resnet --help")
    assert "--prior.decoder.blocks" in text
    assert "--prior.latent" not in text
    assert "--data.path" in said("data:arrays --help")
    assert "--condition.on" in said("condition:labels --help")
    text = said("--help")
    assert all(
        word in text for word in ("--latent", "--inference.epochs", "coupling-nsf", "covariates", "warmup-cosine")
    )
