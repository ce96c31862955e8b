"""The guide of a model without latent variables: nothing."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["NoGuide"]


class NoGuide(nn.Module):
    """No sites and no parameters: SVI with it is maximum likelihood.

    The ELBO of a model that has no latent variable is E_q[log p(x) − 0] = log p(x), so `Trace_ELBO`, `inference.fit`
    and everything that takes a pair work unchanged, and what they call ELBO is the exact log-likelihood.
    """

    def forward(self, x: Tensor | None = None, size: int | None = None) -> None:
        """Takes the model's arguments, as Pyro wants it."""
