"""Modules of one's own as networks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from torch import Size, nn

from flowvae import FlowvaeError
from flowvae.core.parts import NetworkSpec
from flowvae.core.registry import name_of
from flowvae.networks import MLP, Wrap, as_network


def test_a_module_is_wrapped_and_a_spec_stays_as_it_is() -> None:
    module, spec = nn.Linear(3, 2), MLP((4,))
    assert as_network("encoder", spec) is spec
    wrapped = as_network("encoder", module)
    assert wrapped == Wrap(module)
    assert wrapped != Wrap(nn.Linear(3, 2))
    assert wrapped.build(Size((3,)), Size((2,))) is module
    assert as_network("encoder", wrapped) is wrapped


def test_an_own_spec_is_a_network() -> None:
    @dataclass(frozen=True)
    class Own(NetworkSpec):
        def build(self, inputs: Size, outputs: Size | None = None, context: int = 0) -> nn.Module:
            return nn.Identity()

    assert as_network("decoder", Own()) == Own()


def test_a_wrapped_module_has_no_name() -> None:
    with pytest.raises(FlowvaeError, match="Linear"):
        name_of(Wrap(nn.Linear(3, 2)))


@pytest.mark.parametrize("value", [3, "mlp", None, (64, 64), lambda x: x])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(FlowvaeError, match=r"encoder = .*nn\.Module"):
        as_network("encoder", value)
    with pytest.raises(FlowvaeError, match=r"Wrap\.module"):
        Wrap(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [MLP, nn.Identity])
def test_a_class_is_not_an_object(value: type) -> None:
    with pytest.raises(FlowvaeError, match=rf"encoder = .*{value.__name__}.*{value.__name__}\(…\)"):
        as_network("encoder", value)
