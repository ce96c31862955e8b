"""PixelCNN as a likelihood: each pixel given the decoder's features and the pixels before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor

from flowvae.core.errors import FlowvaeError, check_int
from flowvae.core.parts import Units
from flowvae.core.seeds import seeded
from flowvae.models.likelihoods.bernoulli import BernoulliLikelihood
from flowvae.models.likelihoods.bounded_counts import BoundedCounts
from flowvae.models.likelihoods.likelihood import Likelihood, count_units
from flowvae.models.likelihoods.logistic_mixture import LogisticMixtureLikelihood
from flowvae.networks import PixelCNN, TwoStackImages

__all__ = ["PixelCNNDistribution", "PixelCNNLikelihood"]

DRAWS = 4  # number of draws that the mean averages over


class PixelCNNDistribution(TorchDistribution):
    """PixelCNN distribution, p(x | h) = Π_i p(x_i | x_1, …, x_{i−1}, h) over the pixels of an image in raster order.

    The density takes one pass of the network. A draw takes one pass of the horizontal stack for every pixel and one of
    the vertical stack for every row, each over the pixels on which it depends.

    Args:
        network: gives the parameters of all pixels' conditionals.
        radius: radius of the network's receptive field.
        head: likelihood of a pixel given its parameters.
        features: h, feature maps of shape (..., F, H, W); their batch shape is the distribution's.
        total: the largest count.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        network: TwoStackImages,
        radius: int,
        head: Likelihood,
        features: Tensor,
        total: int,
        validate_args: bool | None = None,
    ) -> None:
        self.network, self.radius, self.head, self.total = network, radius, head, total
        self.features = features
        super().__init__(features.shape[:-3], head.shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        """The support of the head."""
        like = self.features.new_zeros(self.network.parameters_each, *self.event_shape[1:])
        return self._head(like).support

    def expand(self, batch_shape: Size, _instance: object = None) -> PixelCNNDistribution:
        """Expand the batch shape."""
        features = self.features.expand(*batch_shape, *self.features.shape[-3:])
        new = PixelCNNDistribution(self.network, self.radius, self.head, features, self.total, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute log p(value | h) in nats, (..., C, H, W) → (...)."""
        batch = torch.broadcast_shapes(value.shape[:-3], self.batch_shape)
        x = self._rows(value.expand(*batch, *self.event_shape))
        features = self._rows(self.features.expand(*batch, *self.features.shape[-3:]))
        found: Tensor = self._head(self.network.images(self._scaled(x), features)).log_prob(x)
        return found.reshape(batch)

    @torch.no_grad()
    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        """Draw by ancestral sampling, shape sample_shape + batch shape + event shape, without a gradient."""
        batch = Size((*sample_shape, *self.batch_shape))
        features = self._rows(self.features.expand(*batch, *self.features.shape[-3:]))
        x = features.new_zeros(len(features), *self.event_shape)
        for i in range(self.event_shape[1]):
            # pixels that are not drawn yet have no influence on these outputs
            rows = slice(max(0, i - self.radius), i + 1), slice(None)
            read = self.network.rows_above(self._scaled(x[..., *rows]), features[..., *rows], rows)
            for j in range(self.event_shape[2]):
                part = slice(i, i + 1), slice(max(0, j - self.radius), j + 1)
                found = self.network.next_pixel(self._scaled(x[..., *part]), read, part)
                x[..., i : i + 1, j : j + 1] = self.head(found).sample()
        return x.reshape(*batch, *self.event_shape)

    def conditional_mean(self, value: Tensor) -> Tensor:
        """Compute E[x_i | x_1, …, x_{i−1}, h] for all pixels of images of shape batch shape + event shape."""
        parameters = self.network.images(self._scaled(self._rows(value)), self._rows(self.features))
        return self.head.mean(parameters).reshape(value.shape)

    def _head(self, parameters: Tensor) -> TorchDistribution:
        found: TorchDistribution = self.head(parameters)
        return found

    def _scaled(self, x: Tensor) -> Tensor:
        return 2 * x / self.total - 1

    def _rows(self, images: Tensor) -> Tensor:
        """Reshape (..., C, H, W) to (N, C, H, W)."""
        return images.reshape(-1, *images.shape[-3:])


class _PixelCNN(Likelihood):
    def __init__(self, shape: Size, units: Units, spec: PixelCNNLikelihood) -> None:
        super().__init__(shape, units)
        self.total = spec.total
        self.head: Likelihood = spec.head.build(shape, units)
        network = spec.causal
        parameters = spec.head.parameter_shape(shape)[0]
        self.radius = network.radius
        built = network.network(shape[0], parameters, (shape[1], shape[2]), maps=spec.features)
        self.network = cast(TwoStackImages, built)

    def forward(self, parameters: Tensor) -> TorchDistribution:
        return PixelCNNDistribution(self.network, self.radius, self.head, parameters, self.total)

    def mean(self, parameters: Tensor) -> Tensor:
        given = self(parameters).expand(Size((DRAWS, *parameters.shape[:-3])))
        with seeded(0):
            x = given.sample()
        mean: Tensor = given.conditional_mean(x).mean(0)
        return mean


@dataclass(frozen=True)
class PixelCNNLikelihood(BoundedCounts, name="pixelcnn"):
    """Images of counts from 0 to `total`, each pixel given the decoder's features there and earlier pixels nearby.

    The decoder gives feature maps (F, H, W). A small causal network reads them and the pixels of a receptive field of
    radius r: r pixels to the left, and the 2r − 1 nearest columns of the r rows above. Information from farther away
    reaches a pixel only through the code: a network that reads the whole image could model it without the code. The
    conditionals are Bernoulli for bits (`total` 1), and otherwise mixtures of five discretized logistics, with
    dependent channels in colour.

    A density takes one pass of the network; a draw of an image takes H · W passes over small windows. E[x | h] has no
    closed form: the mean averages the pixels' conditional means over four draws with a fixed seed.

    Args:
        total: the largest count; 1 for bits.
        features: F.
        channels: width of the network's layers.
        layers: number of its gated layers.
        kernel: size of the kernels, an odd number.
        field: radius of the receptive field; none: what the layers reach, 1 + (kernel − 1) / 2 · layers. Layers beyond
            a smaller field have kernels of one pixel, so that models of different fields have the same depth. 0: each
            pixel given the features alone.

    Raises:
        FlowvaeError: for settings out of range.

    References:
        van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves & Kavukcuoglu (2016), "Conditional image generation with
        PixelCNN decoders".
        Chen, Kingma, Salimans, Duan, Dhariwal, Schulman, Sutskever & Abbeel (2017), "Variational Lossy Autoencoder"
        (the limited receptive field).
    """

    total: int = 1
    features: int = 16
    channels: int = 32
    layers: int = 2
    kernel: int = 3
    field: int | None = None

    def __post_init__(self) -> None:
        self.check_total()
        check_int(self, "features")
        _ = self.causal  # checks the network's settings

    @property
    def causal(self) -> PixelCNN:
        """Settings of the causal network."""
        return PixelCNN(channels=self.channels, layers=self.layers, kernel=self.kernel, field=self.field)

    @property
    def radius(self) -> int:
        """Radius of the receptive field: largest distance, in rows or columns, to a pixel on which a pixel depends."""
        return self.causal.radius

    @property
    def receptive_field(self) -> int:
        """Number of earlier pixels on which a pixel far from the borders depends, 2 radius².

        >>> PixelCNNLikelihood(layers=4, field=3).receptive_field
        18
        """
        return 2 * self.radius**2

    @property
    def head(self) -> BernoulliLikelihood | LogisticMixtureLikelihood:
        """Likelihood of a pixel given the network's outputs."""
        return BernoulliLikelihood() if self.total == 1 else LogisticMixtureLikelihood(self.total)

    def units(self, train: Any) -> Units:
        return count_units(train)

    def parameter_shape(self, shape: Size) -> Size:
        """Return the event shape of the decoder's outputs, (F, H, W).

        Raises:
            FlowvaeError: for data that are not images.
        """
        if len(shape) != 3:
            raise FlowvaeError(
                f"likelihood {self}: data of shape {tuple(shape)}; it needs images (C, H, W). Use bernoulli for bits, "
                "or logistic-mixture:TOTAL."
            )
        return Size((self.features, *shape[1:]))

    def build(self, shape: Size, units: Units) -> Likelihood:
        self.parameter_shape(shape)
        return _PixelCNN(shape, units, self)
