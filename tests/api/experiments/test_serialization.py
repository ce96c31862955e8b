"""Specs as plain values: whatever has a name is written and read back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest
from zuko.lazy import LazyDistribution

from flowvae import MAF, Experiment, FlowDecoder, FlowvaeError, Gaussian, Inverse, PriorSpec, RealNVP, StandardNormal
from flowvae.core.parts import GuideSpec, LikelihoodSpec, parse_likelihood
from flowvae.core.registry import families, kinds
from flowvae.experiments.serialization import check_setting, from_plain, read_setting, to_plain
from flowvae.inference import Training
from flowvae.inference.schedules import Cosine
from flowvae.networks import MLP


def test_every_part_with_default_settings_is_read_back() -> None:
    for kind in kinds():
        for name, family in families(kind).items():
            ours = type(family.default).__module__.startswith("flowvae.")  # other tests may have defined parts
            if family.default is not None and ours:
                plain = to_plain(family.default)
                assert plain == name if kind == "likelihood" else plain["family"] == name
                assert from_plain(kind, plain) == family.default
                assert from_plain(kind, name) == family.default


def test_an_own_part_is_written_and_read_back(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Wide(GuideSpec, name="wide"):
        title: ClassVar[str] = "wide"

        width: float = 2.0

        def build(self, features: int, context: int) -> LazyDistribution:
            return Gaussian().build(features, context)

    @dataclass(frozen=True)
    class Still(PriorSpec, name="still"):
        """A prior that is not a flow."""

        depth: int = 1

        def build(self, features: int, context: int = 0) -> LazyDistribution:
            return StandardNormal().build(features, context)

    experiment = Experiment(latent=2, prior=Still(depth=3), guide=Wide(width=5.0))
    assert to_plain(experiment.guide) == {"family": "wide", "width": 5.0}
    experiment.to_yaml(tmp_path / "e.yaml")
    assert Experiment.from_yaml(tmp_path / "e.yaml") == experiment


@dataclass(frozen=True)
class Holder:
    """Settings that hold parts of every kind."""

    prior: PriorSpec = field(default_factory=MAF)
    likelihood: LikelihoodSpec | None = None
    training: Training = field(default_factory=Training)
    sizes: tuple[tuple[int, ...], ...] = ((1, 2),)


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("prior", RealNVP(transforms=3), {"family": "realnvp", "transforms": 3}),
        ("likelihood", parse_likelihood("binomial:3"), "binomial:3"),
        ("likelihood", None, None),
        ("sizes", ((3,), (4, 5)), [[3], [4, 5]]),
        ("training", Training(schedule=Cosine(0.5)), {"schedule": {"family": "cosine", "final": 0.5}}),
    ],
)
def test_settings_are_read_by_their_types(name: str, value: object, plain: object) -> None:
    assert read_setting(Holder, name, plain, name) == value
    assert read_setting(Holder, name, to_plain(value), name) == value


def test_a_part_without_family_is_the_default_one() -> None:
    assert read_setting(Holder, "prior", {"transforms": 5}, "prior") == MAF(transforms=5)
    with pytest.raises(FlowvaeError, match=r"'bins'.*nsf"):
        read_setting(Holder, "prior", {"bins": 5}, "prior")


def test_a_decoder_with_a_flow_is_read_back() -> None:
    decoder = FlowDecoder(Inverse(MAF(1, (8,))), MLP((6,)))
    assert from_plain("network", to_plain(decoder)) == decoder
    assert from_plain("network", {"family": "flow-decoder", "flow": "realnvp"}) == FlowDecoder(RealNVP())
    assert from_plain("network", to_plain(MLP((6,)))) == MLP((6,))
    with pytest.raises(FlowvaeError, match=r"FlowDecoder\.network = 3"):
        from_plain("network", {"family": "flow-decoder", "network": 3})
    with pytest.raises(FlowvaeError, match="'base'"):
        from_plain("network", {"family": "flow-decoder", "base": 3})


def test_a_setting_of_another_family_is_named_with_its_owner() -> None:
    with pytest.raises(FlowvaeError, match=r"maf.*'bins'.*nsf"):
        check_setting("prior", "maf", "bins")
    check_setting("guide", "inverse-nsf", "bins")  # of the flow inside
    check_setting("guide", "inverse-nsf", "conditioned")  # of the guide around it


def test_an_experiment_is_not_its_prior() -> None:
    with pytest.raises(FlowvaeError, match=r"'wide'.*mlp"):
        Experiment.from_dict({"encoder": "wide"})
    assert Experiment.from_dict({"prior": "normal"}) == replace(Experiment(), prior=StandardNormal())
