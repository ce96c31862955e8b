"""What several tests need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from flowvae.core.registry import families
from flowvae.flows import FlowSpec, Inverse, Linear, Residual, Sylvester
from flowvae.flows.spec import NetworkFlowSpec

# every family, with small networks where it has them, and every kind where it has several
FAMILIES: dict[str, FlowSpec] = {
    name: type(family.default)(**({"hidden_features": (16,)} if isinstance(family.default, NetworkFlowSpec) else {}))
    for name, family in families("flow").items()
    if not family.default.wraps and not family.default.shaped
}
FAMILIES |= {
    "linear-plu": Linear(kind="plu"),
    "residual": Residual(transforms=2, hidden_features=(16,)),
    "sylvester": Sylvester(transforms=2),
    "sylvester-rank": Sylvester(transforms=2, rank=2),
    "sylvester-householder": Sylvester(transforms=2, kind="householder"),
    "sylvester-triangular": Sylvester(transforms=2, kind="triangular"),
}
FAMILIES |= {
    f"inverse-{name}": Inverse(flow) for name, flow in FAMILIES.items() if flow.proper and not flow.inverse_name
}

# one direction is a bisection or an integration, which ends at a tolerance above rounding
NUMERICAL = ("bpf", "cnf", "naf", "unaf", "sospf", "gf")
EXACT = {name: flow for name, flow in FAMILIES.items() if name.removeprefix("inverse-") not in NUMERICAL}

HANGS = 1800  # seconds after which a process is taken to hang: far above its time on a busy machine

# posteriordb's draws do not ship with the project
REFERENCE_FOLDER = Path(
    os.environ.get("FLOWVAE_POSTERIORDB") or Path(__file__).parents[2] / "shared" / "data" / "posteriordb"
)
needs_references = pytest.mark.skipif(
    not REFERENCE_FOLDER.is_dir(), reason="reference draws missing: set FLOWVAE_POSTERIORDB to the folder that has them"
)


def disturb(module: nn.Module, scale: float, seed: int = 1) -> None:
    """Give every parameter a random value, so that nothing holds because of the start alone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(scale * noise)
