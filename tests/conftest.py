"""Every test starts from the same state of the process, and fails if it leaves another one behind."""

from __future__ import annotations

from collections.abc import Iterator

import pyro
import pytest
import torch

import flowvae  # noqa: F401  (before Pyro's settings are read)
from flowvae.core import registry

torch.set_num_threads(1)
registry.kinds()  # imports all parts now: what is registered during a test is forgotten after it


def _state() -> dict[str, object]:
    return {
        "distribution validation": torch.distributions.Distribution._validate_args,
        "Pyro validation": pyro.settings.get("validate_distributions_pyro"),
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "parameter store": sorted(pyro.get_param_store().keys()),
    }


@pytest.fixture(autouse=True)
def _same_process_state() -> Iterator[None]:
    torch.manual_seed(0)
    before = _state()
    yield
    after = _state()
    torch.set_default_dtype(torch.float32)
    pyro.clear_param_store()
    pyro.enable_validation(True)
    assert after == before


@pytest.fixture(autouse=True)
def _same_registry() -> Iterator[None]:
    """Parts that a test defines are forgotten after it."""
    tables = (registry._CLASSES, registry._WRAPPERS)
    before = [{kind: type(known)(known) for kind, known in table.items()} for table in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        if table != kept:
            table.clear()
            table.update(kept)
            registry.families.cache_clear()
            registry._entries.cache_clear()


@pytest.fixture
def float64() -> Iterator[None]:
    """Modules that are made inside the test have float64 parameters."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
