"""The registry: a part has a name by being defined."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar

import pytest
from zuko.lazy import LazyDistribution, LazyTransform

from flowvae import MAF, NSF, Experiment, FlowGuide, FlowSpec, FlowvaeError, Inverse, PriorSpec, StandardNormal
from flowvae.core.registry import Spec, families, find, kinds, name_of
from flowvae.flows import Planar
from flowvae.networks import MLP


def own(name: str = "mine", module: str = __name__, qualname: str = "Mine") -> type[MAF]:
    """A flow with a setting of its own, as if it were defined in that module."""
    body = {
        "__module__": module,
        "__qualname__": qualname,
        "__annotations__": {"scale": float},
        "scale": 1.0,
        "title": "a flow of one's own",
    }
    return dataclass(frozen=True)(type("Mine", (MAF,), body, name=name))  # type: ignore[call-overload, no-any-return]


def refused(make: Callable[[], Any]) -> str:
    with pytest.raises(FlowvaeError) as info:
        make()
    said = str(info.value)
    assert "\n" not in said
    return said


def test_a_class_is_known_in_every_role_once_it_is_defined() -> None:
    mine = own()
    assert find("flow", "mine").type is mine
    assert find("prior", "mine").default == mine()
    assert find("guide", "mine").default == FlowGuide(mine())
    assert find("flow", "inverse-mine").default == find("prior", "inverse-mine").default == Inverse(mine())
    assert find("guide", "inverse-mine").default == FlowGuide(Inverse(mine()))
    assert list(families("prior"))[-2:] == ["mine", "inverse-mine"]  # the package's own come first
    for part, name in (
        (mine(1), "mine"),
        (Inverse(mine(2)), "inverse-mine"),
        (FlowGuide(Inverse(mine())), "inverse-mine"),
    ):
        assert name_of(part) == name


def test_a_kind_of_ones_own_has_families() -> None:
    class Metric(Spec, kind="metric"):
        pass

    @dataclass(frozen=True)
    class Euclidean(Metric, name="euclidean"):
        power: int = 2

    assert "metric" in kinds()
    assert families("metric")["euclidean"].default == Euclidean()
    assert name_of(Euclidean(3)) == "euclidean"


def test_a_wrapper_names_every_part_that_it_wraps() -> None:
    Inner = TypeVar("Inner", bound=PriorSpec)

    class ScaleSpec(Spec, kind="scale"):
        pass

    @dataclass(frozen=True)
    class Half(ScaleSpec, Generic[Inner], wraps="prior", prefix="half-"):
        prior: Inner
        share: float = 0.5

    @dataclass(frozen=True)
    class Whole(ScaleSpec, name="whole"):
        pass

    assert {"whole", "half-normal", "half-maf"} <= set(families("scale"))
    assert find("scale", "half-normal").default == Half(StandardNormal())
    assert name_of(Half(MAF(), 0.1)) == "half-maf"
    own()  # defined after the wrapper
    assert "half-mine" in families("scale")


def test_a_class_that_is_defined_again_replaces_the_first() -> None:
    first, second = own(), own()
    assert find("prior", "mine").type is second
    assert name_of(second()) == "mine"
    assert "Mine" in refused(lambda: name_of(first()))
    assert isinstance(find("guide", "mine").default.flow, second)


@pytest.mark.parametrize("name", ["maf", "normal", "mine"])
@pytest.mark.parametrize("place", [{"module": "elsewhere"}, {"qualname": "Other"}], ids=["module", "class"])
def test_a_name_that_another_class_has_is_refused(name: str, place: dict[str, str]) -> None:
    first = own()
    assert name in refused(lambda: own(name, **place))
    assert find("prior", "mine").type is first
    assert find("prior", "maf").type is MAF


def test_a_name_may_be_that_of_another_kind() -> None:
    mine = own("gaussian")  # a guide and a likelihood have this name
    assert find("flow", "gaussian").type is mine


@pytest.mark.parametrize("name", ["Mine", "my flow", "prior:x", "-x", "x-", "x_y", "1x", "inverse-mine"])
def test_a_name_that_no_command_line_can_say_is_refused(name: str) -> None:
    assert name in refused(lambda: own(name))
    assert name not in families("prior")


def test_a_class_without_a_kind_is_refused() -> None:
    def define() -> None:
        class Nothing(Spec, name="nothing"):
            pass

    assert "nothing" in refused(define)


def test_a_class_without_dataclass_is_refused_where_it_is_looked_up_until_it_is_defined_again() -> None:
    def define(decorated: bool) -> type:
        class Mine(MAF, name="mine"):
            scale: float = 1.0

        return dataclass(frozen=True)(Mine) if decorated else Mine

    define(decorated=False)
    for look_up in (lambda: find("prior", "mine"), lambda: families("flow"), lambda: families("guide")):
        assert "@dataclass" in refused(look_up)
    mine = define(decorated=True)
    assert find("prior", "mine").default == mine()


def test_a_class_with_slots_keeps_its_name() -> None:
    @dataclass(frozen=True, slots=True)  # which makes the class a second time
    class Slotted(PriorSpec, name="slotted"):
        power: int = 2

        def build(self, features: int, context: int = 0) -> LazyDistribution:
            return StandardNormal().build(features, context)

    assert name_of(Slotted(3)) == "slotted"
    experiment = Experiment(prior=Slotted(3))
    assert Experiment.from_dict(experiment.to_dict()) == experiment


def test_a_class_that_is_not_frozen_is_refused() -> None:
    @dataclass
    class Open(PriorSpec, name="open"):
        power: int = 2

        def build(self, features: int, context: int = 0) -> LazyDistribution:
            return StandardNormal().build(features, context)

    said = refused(lambda: find("prior", "open"))
    assert "Open" in said
    assert "frozen" in said


@pytest.mark.parametrize("setting", ["part", "family", "wraps", "prefix", "naming", "refuses"])
def test_a_setting_that_would_hide_what_a_spec_says_of_itself_is_refused(setting: str) -> None:
    before = kinds()
    body = {"__module__": __name__, "__annotations__": {setting: str}, setting: "maf"}
    said = refused(lambda: type("Mine", (MAF,), body, name="mine"))  # type: ignore[call-overload]
    assert "Mine" in said
    assert setting in said
    assert kinds() == before
    assert "mine" not in families("prior")


@pytest.mark.parametrize("setting", ["name", "kind", "label"])
def test_other_settings_may_have_any_name(setting: str) -> None:
    body = {"__module__": __name__, "__annotations__": {setting: str}, setting: "maf"}
    mine = dataclass(frozen=True)(type("Mine", (MAF,), body, name="mine"))  # type: ignore[call-overload]
    experiment = Experiment(prior=mine(**{setting: "x"}))
    assert name_of(experiment.prior) == "mine"
    assert Experiment.from_dict(experiment.to_dict()) == experiment


def test_a_class_without_a_method_is_refused_with_its_name() -> None:
    @dataclass(frozen=True)
    class NoCost(FlowSpec, name="no-cost"):
        def transform(self, features: int, context: int = 0) -> LazyTransform:
            return MAF().transform(features, context)

    said = refused(lambda: find("prior", "no-cost"))
    assert "NoCost" in said
    assert "no cost" in said
    assert "transform" not in said


def test_a_class_without_defaults_is_listed_and_needs_its_settings() -> None:
    @dataclass(frozen=True)
    class Needy(PriorSpec, name="needy"):
        size: int
        power: int = 2

        def build(self, features: int, context: int = 0) -> LazyDistribution:
            return StandardNormal().build(features, context)

    assert families("prior")["needy"].default is None
    assert name_of(Needy(3)) == "needy"
    assert "'size'" in refused(lambda: Experiment.from_dict({"prior": "needy"}))
    experiment = Experiment.from_dict({"prior": {"family": "needy", "size": 3}})
    assert experiment.prior == Needy(3)
    assert Experiment.from_dict(experiment.to_dict()) == experiment


def test_a_setting_that_is_refused_by_default_says_so() -> None:
    @dataclass(frozen=True)
    class Wrong(MAF, name="wrong"):
        transforms: int = -1

    assert "-1" in refused(lambda: families("prior"))


@pytest.mark.parametrize(
    ("roles", "kind", "usable", "why_not"),
    [
        (("prior",), "guide", "prior", "its draws have no gradient"),
        (("posterior",), "prior", "guide", "it cannot score foreign codes"),
    ],
)
def test_a_flow_with_one_role_says_why_it_has_no_other(
    roles: tuple[str, ...], kind: str, usable: str, why_not: str
) -> None:
    @dataclass(frozen=True)
    class OneRole(MAF, name="one-role"):
        pass

    OneRole.roles, OneRole.why_not = roles, why_not
    assert "one-role" not in families(kind)
    said = refused(lambda: find(kind, "one-role"))
    assert "one-role" in said
    assert why_not in said
    assert "one-role" in families(usable)
    assert "one-role" in families("flow")


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    own("spiral")
    said = refused(lambda: find("prior", "spirl"))
    assert "'spirl'" in said
    assert "spiral" in said
    assert "--import" in said


def test_a_part_without_a_name_is_refused_with_the_two_ways_out(tmp_path: Any) -> None:
    @dataclass(frozen=True)
    class Nameless(MAF):
        title: ClassVar[str] = "nameless"

    for part in (Nameless(), Inverse(Nameless()), FlowGuide(Nameless())):
        said = refused(lambda part=part: name_of(part))
        assert 'class Nameless(…, name="' in said
        assert "without a directory" in said
    experiment = replace(Experiment(latent=2), prior=Nameless())
    assert "Nameless" in refused(lambda: experiment.run(tmp_path / "run", progress=False))
    assert not (tmp_path / "run").exists()
    for other in (3, None, MAF, object()):
        refused(lambda other=other: name_of(other))


def test_names_of_the_packages_own_parts() -> None:
    parts = {MAF(): "maf", Inverse(NSF()): "inverse-nsf", FlowGuide(Inverse(MAF())): "inverse-maf", MLP(): "mlp"}
    assert {part: name_of(part) for part in parts} == parts
    assert name_of(Inverse(Planar())) == "inverse-planar"
    for kind in kinds():
        for name, family in families(kind).items():
            assert family.default is None or name_of(family.default) == name
            assert find(kind, name) == family
            assert isinstance(family.default, Spec | None)


def test_flowvaes_own_names_are_known_to_whoever_asks_first_and_cannot_be_taken() -> None:
    """In new processes, where no family has been imported."""
    own = "dataclass(frozen=True)(type('Mine', (PriorSpec,), {'__module__': 'm'}, name='mixture'))"
    for question, answer in (
        ("print(find('prior', 'maf').name)", "maf"),
        ("print('schedule' in kinds())", "True"),
        ("print(find('network', 'mpl'))", "did you mean mlp"),
        (f"from flowvae.core.parts import PriorSpec\n    {own}", "another prior"),
    ):
        code = (
            "from dataclasses import dataclass\nfrom flowvae.core.registry import find, kinds\n"
            f"try:\n    {question}\nexcept ValueError as error:\n    print(error)"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert answer in done.stdout
