"""Small pairs of every prior and guide."""

from __future__ import annotations

import warnings
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from flowvae import Digits, Experiment
from flowvae.core.errors import ImproperDensityWarning, SlowDirectionWarning
from flowvae.core.registry import _is_ours, families
from flowvae.inference.compile import native
from flowvae.networks import MLP

needs_compiler = pytest.mark.skipif(not native.compiler(), reason="no C++ compiler is installed")

# their solvers take as many steps as the values need, or check that they have converged
ADAPTIVE_PRIORS = {"cnf", "flow-matching", "inverse-cnf", "inverse-residual", "sylvester", "inverse-sylvester"}
ADAPTIVE_GUIDES = {"cnf", "inverse-cnf", "residual", "sylvester", "inverse-sylvester"}
IMAGE_PRIORS = {"glow"}
# they score codes by the guide's posteriors, which must have closed means or cheap densities
FOLLOWING_PRIORS = {"exemplar": "gaussian", "vamp": "full-rank", "vamp-gtm": "coupling-nsf"}


def own(kind: str) -> list[str]:
    """The families of the package that train jointly; other test modules may define some of their own."""
    return [
        name
        for name, family in families(kind).items()
        if family.default is not None and _is_ours(family) and not getattr(family.default, "why_not_joint", "")
    ]


def covering() -> list[tuple[str, str]]:
    """Every prior and every guide at least once; the adaptive ones with each other."""
    pairs = []
    for adaptive in (False, True):
        priors = [name for name in own("prior") if (name in ADAPTIVE_PRIORS) is adaptive]
        priors = [name for name in priors if name not in FOLLOWING_PRIORS]
        guides = [name for name in own("guide") if (name in ADAPTIVE_GUIDES) is adaptive]
        most = max(len(priors), len(guides))
        pairs += [(priors[i % len(priors)], guides[(i + 1) % len(guides)]) for i in range(most)]
    return [*pairs, *FOLLOWING_PRIORS.items()]


def small(spec: Any) -> Any:
    """The family with as few layers as it may have."""
    inner = {f.name: small(spec.flow) for f in fields(spec) if f.name == "flow"}
    return replace(spec, **inner, **{f.name: 2 for f in fields(spec) if f.name == "transforms" and f.default != 1})


def build(prior: str, guide: str) -> Any:
    """A small VAE, away from the identity that flows begin as."""
    parts = {"prior": small(families("prior")[prior].default), "guide": small(families("guide")[guide].default)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowDirectionWarning)
        warnings.simplefilter("ignore", ImproperDensityWarning)
        latent = (1, 4, 4) if prior in IMAGE_PRIORS else 2
        pair = Experiment(latent=latent, encoder=MLP((8,)), decoder=MLP((8,)), **parts).build(Digits().load(0))
    with torch.no_grad():
        for parameter in [p for part in pair for p in part.parameters()]:
            parameter.add_(0.05 * torch.randn_like(parameter))
    return pair


class Interpreted(native.NativeProgram):
    """The graph itself instead of machine code, with other last bits; `on_disk` says whether it is ready."""

    on_disk = True

    def __init__(self, graph: Any, inputs: Any) -> None:
        super().__init__(graph, inputs)
        self.graph = graph

    @property
    def ready(self) -> bool:
        return self.on_disk

    def compile(self) -> None:
        """Do nothing."""

    def wait(self) -> None:
        """Be ready at once."""

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        loss, norm = self.graph(*inputs)
        last_bit = 1 + 2 * torch.finfo(inputs[0].dtype).eps
        if norm.isfinite():
            inputs[0].mul_(last_bit)  # of packed weights
        return [loss * last_bit, norm]
