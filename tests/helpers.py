"""What several tests need."""

from __future__ import annotations

import torch
from torch import nn

from flowvae.families import FLOWS
from flowvae.flows import FlowSpec, Inverse

# whose inverse is a bisection or an integration: exact to its tolerance only, and held to that in test_labels
NUMERICAL = ("bpf", "cnf", "naf", "unaf", "sospf", "gf")

FAMILIES: dict[str, FlowSpec] = {
    name: family(hidden_features=(16,))  # type: ignore[call-arg]
    for name, family in FLOWS.items()
    if name not in NUMERICAL
}
FAMILIES |= {f"inverse-{name}": Inverse(flow) for name, flow in list(FAMILIES.items()) if name != "iaf"}


def disturb(module: nn.Module, scale: float, seed: int = 1) -> None:
    """Give every parameter a random value, so that nothing holds because of the start alone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(scale * noise)
