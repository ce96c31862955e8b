"""Evaluation mode inside a block, and the mode of every single module put back after it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from pyro import poutine
from torch import nn

from flowvae.networks import eval_mode, in_eval_mode


def mixed() -> nn.Sequential:
    """Modules in different modes: the whole and the dropout train, the normalization does not."""
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    net[1].eval()
    return net


def modes(net: nn.Module) -> list[bool]:
    return [module.training for module in net.modules()]


class _Owner:
    def __init__(self, net: nn.Module) -> None:
        self.net = net


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: net,
        lambda net: (net, 3),
        lambda net: {"first": [net]},
        lambda net: partial(print, net),
        lambda net: partial(print, end=net),
        lambda net: net.forward,
        lambda net: poutine.condition(net, data={}),
    ],
    ids=["module", "tuple", "mapping", "argument", "keyword", "method", "handler"],
)
def test_every_module_is_evaluated_and_put_back(wrap: object) -> None:
    net = mixed()
    before = modes(net)
    with eval_mode(wrap(net)):  # type: ignore[operator]
        assert not any(modes(net))
    assert modes(net) == before == [True, True, False, True]
    with pytest.raises(ZeroDivisionError), eval_mode(wrap(net)):  # type: ignore[operator]
        _ = 1 / 0
    assert modes(net) == before


def test_the_decorator_finds_modules_among_all_arguments() -> None:
    @in_eval_mode
    def both(first: nn.Module, *, second: nn.Module) -> list[bool]:
        return modes(first) + modes(second)

    one, two = mixed(), mixed()
    assert not any(both(one, second=two))
    assert modes(one) == modes(two) == [True, True, False, True]
    assert both.__name__ == "both"


def test_what_is_no_module_is_left_alone() -> None:
    net = mixed()
    with eval_mode(lambda: net, "text", 3, None, torch.zeros(2), _Owner(net)):
        assert any(modes(net))
