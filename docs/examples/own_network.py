"""A custom encoder and decoder: any `nn.Module`, built by a named spec so that runs can be loaded.

flowvae train --import own_network --out runs/own-network encoder:small-conv decoder:small-deconv
"""

from dataclasses import dataclass

from torch import Size, nn

from flowvae import Experiment, NetworkSpec


@dataclass(frozen=True)
class SmallConv(NetworkSpec, name="small-conv"):
    """Images (N, C, H, W) to features: sides halved once, then flattened."""

    channels: int = 8

    def build(self, inputs: Size, outputs: Size | None = None, context: int = 0) -> nn.Module:
        convolution = nn.Conv2d(inputs[0], self.channels, 3, stride=2, padding=1)
        return nn.Sequential(convolution, nn.ReLU(), nn.Flatten(1))


@dataclass(frozen=True)
class SmallDeconv(NetworkSpec, name="small-deconv"):
    """Codes (N, D) to the parameters of the likelihood, (N, C, H, W)."""

    channels: int = 8

    def build(self, inputs: Size, outputs: Size | None = None, context: int = 0) -> nn.Module:
        assert outputs is not None  # only an encoder chooses its outputs
        c, h, w = outputs
        start = nn.Linear(inputs.numel(), self.channels * (h // 2) * (w // 2))
        fold = nn.Unflatten(1, (self.channels, h // 2, w // 2))
        return nn.Sequential(start, nn.ReLU(), fold, nn.ConvTranspose2d(self.channels, c, 4, stride=2, padding=1))


def experiment() -> Experiment:
    """Digits with both networks. Without a directory, in `train(experiment)`, plain modules work, too."""
    return Experiment(encoder=SmallConv(), decoder=SmallDeconv())
