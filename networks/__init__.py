"""Networks: encoder trunks and decoders, autoregressive networks, and the way their parameters meet Pyro."""

from flowvae.networks.autoregressive.causal import CausalNetwork, CausalSpec
from flowvae.networks.autoregressive.made import MADE
from flowvae.networks.autoregressive.pixelcnn import PixelCNN
from flowvae.networks.autoregressive.wavenet import WaveNet
from flowvae.networks.checks import check_columns, check_rows, columns_of
from flowvae.networks.eval_mode import eval_mode, in_eval_mode
from flowvae.networks.mlp import MLP, Standardize
from flowvae.networks.parameters import declare_parameters

__all__ = [
    "MADE",
    "MLP",
    "CausalNetwork",
    "CausalSpec",
    "PixelCNN",
    "Standardize",
    "WaveNet",
    "check_columns",
    "check_rows",
    "columns_of",
    "declare_parameters",
    "eval_mode",
    "in_eval_mode",
]
