"""The ELBO, the default objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from flowvae.inference.compile.compiled import CompiledTrace_ELBO
from flowvae.inference.objectives.spec import ObjectiveSpec
from flowvae.inference.optim import FiniteTraceELBO

__all__ = ["ELBO"]


@dataclass(frozen=True)
class ELBO(ObjectiveSpec, name="elbo"):
    """Evidence lower bound E_q[log p(x, z) − log q(z | x)], Pyro's `Trace_ELBO`."""

    title: ClassVar[str] = "evidence lower bound"
    paper: ClassVar[str] = "Kingma & Welling 2014"

    def build(self, *, compile: str = "none", **settings: Any) -> FiniteTraceELBO:  # noqa: A002
        if compile == "none":
            return FiniteTraceELBO(**settings)
        return CompiledTrace_ELBO(compile=compile, **settings)
