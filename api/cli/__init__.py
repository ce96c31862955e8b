"""The command line."""

from flowvae.cli.command import main

__all__ = ["main"]
