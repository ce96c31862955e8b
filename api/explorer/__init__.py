"""The latent-space explorer."""

from flowvae.explorer.explorer import explore

__all__ = ["explore"]
