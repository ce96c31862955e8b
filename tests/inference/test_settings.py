"""What every spec of the library has in common: a setting that is true or false takes nothing else."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import pytest

import flowvae.data
import flowvae.flows
import flowvae.guides
import flowvae.inference
import flowvae.models
import flowvae.networks
from flowvae.core.errors import FlowvaeError
from flowvae.data.images.preprocessing import OptionalPreprocessing
from flowvae.flows import IAF

PACKAGES = (flowvae.data, flowvae.flows, flowvae.guides, flowvae.inference, flowvae.models, flowvae.networks)
RESULTS = {"GuideFit", "Dataset", "Pixels", "Raw"}  # not settings
NEEDED = {"flow": IAF(), "name": "FashionMNIST", "root": ".", "path": "."}  # settings without a default


def specs() -> Iterator[type]:
    """Every public dataclass of settings."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            for name, kind in vars(importlib.import_module(module.name)).items():
                public = not name.startswith("_") and isinstance(kind, type) and kind.__module__ == module.name
                if public and name not in RESULTS and is_dataclass(kind) and kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
                    yield kind


def is_complete(kind: type) -> bool:
    """Whether an object can be made, with true and with false: data as they are have no flips."""
    return not inspect.isabstract(kind) and not issubclass(kind, OptionalPreprocessing)


BOOLEANS = [
    (kind, field.name) for kind in specs() if is_complete(kind) for field in fields(kind) if field.type == "bool"
]


def test_some_are_found() -> None:
    assert {kind.__name__ for kind, _ in BOOLEANS} >= {"NSF", "FlowGuide", "SemiAmortized", "GuideSettings", "MLP"}


@pytest.mark.parametrize(("kind", "name"), BOOLEANS, ids=[f"{kind.__name__}.{name}" for kind, name in BOOLEANS])
@pytest.mark.parametrize("value", ["no", 0, None])
def test_a_boolean_is_true_or_false(kind: type, name: str, value: Any) -> None:
    needed = {f.name: NEEDED[f.name] for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    for good in (True, False):
        kind(**needed, **{name: good})
    with pytest.raises(FlowvaeError, match=rf"{kind.__name__}\.{name} = {value!r}: must be true or false"):
        kind(**needed, **{name: value})
