"""The empty guide, for models without latent variables."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["NoGuide"]


class NoGuide(nn.Module):
    """Guide without sites or parameters: SVI with it is maximum likelihood.

    The ELBO of a model without latent variables is E_q[log p(x) − 0] = log p(x). `Trace_ELBO`, `inference.fit` and
    all functions of a model and a guide work unchanged; their ELBO is the exact log-likelihood.
    """

    def forward(self, x: Tensor | None = None, size: int | None = None) -> None:
        """Do nothing; takes the model's arguments, as Pyro requires."""
