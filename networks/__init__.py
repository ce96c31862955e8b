"""Networks: encoders and decoders, autoregressive networks, and their parameters in Pyro."""

import flowvae.core.validation  # noqa: F401  (before zuko)
from flowvae.networks.autoregressive.causal import CausalNetwork, CausalSpec
from flowvae.networks.autoregressive.made import MADE
from flowvae.networks.autoregressive.pixelcnn import CausalImages, PixelCNN, TwoStackImages
from flowvae.networks.autoregressive.wavenet import CausalSequence, WaveNet
from flowvae.networks.checks import check_data, check_event_shape, input_shape
from flowvae.networks.conv import Conv
from flowvae.networks.eval_mode import eval_mode, in_eval_mode
from flowvae.networks.fold import MixedBatchWarning, check_network, fold
from flowvae.networks.gated_conv import GatedConv
from flowvae.networks.image_network import ImageNetworkSpec
from flowvae.networks.lipschitz import Lipschitz
from flowvae.networks.mlp import MLP, Standardize, StandardizeCounts, Standardized
from flowvae.networks.parameters import declare_parameters
from flowvae.networks.reference import Reference
from flowvae.networks.resnet import ResNet
from flowvae.networks.wrap import Wrap, as_network

__all__ = [
    "MADE",
    "MLP",
    "CausalImages",
    "CausalNetwork",
    "CausalSequence",
    "CausalSpec",
    "Conv",
    "GatedConv",
    "ImageNetworkSpec",
    "Lipschitz",
    "MixedBatchWarning",
    "PixelCNN",
    "Reference",
    "ResNet",
    "Standardize",
    "StandardizeCounts",
    "Standardized",
    "TwoStackImages",
    "WaveNet",
    "Wrap",
    "as_network",
    "check_data",
    "check_event_shape",
    "check_network",
    "declare_parameters",
    "eval_mode",
    "fold",
    "in_eval_mode",
    "input_shape",
]
