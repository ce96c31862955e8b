"""A custom data set with a name: three splits, their likelihood, and an identity."""

from dataclasses import dataclass

import torch

from flowvae import DataSpec, Experiment
from flowvae.data import Dataset


@dataclass(frozen=True)
class Rings(DataSpec, name="rings"):
    """Colour images (3, 8, 8): a ring of a random radius, in one of three colours."""

    count: int = 600

    def load(self, seed: int) -> Dataset:
        parts, labels = {}, {}
        for split, stream in {"train": seed + 1, "valid": seed + 2, "test": 0}.items():  # the same test data always
            generator = torch.Generator().manual_seed(stream)
            radius = 1 + 2 * torch.rand(self.count, 1, 1, generator=generator)
            labels[split] = torch.randint(3, (self.count,), generator=generator)
            line = torch.linspace(-3.5, 3.5, 8)
            ring = ((line[:, None] ** 2 + line**2).sqrt() - radius).abs() < 0.8
            parts[split] = torch.nn.functional.one_hot(labels[split], 3)[:, :, None, None] * ring[:, None].float()
        return Dataset(
            *(parts[split] for split in ("train", "valid", "test")),
            likelihood="bernoulli",
            name="rings",
            preprocessing="none",
            split=f"simulated, test fixed, others by seed {seed}",
            labels=labels,
        )


def experiment() -> Experiment:
    """A small VAE of rings."""
    return Experiment(latent=4, data=Rings())
