"""Variational autoencoders as Pyro model/guide pairs, with normalizing flows as priors and in guides.

`Experiment` combines the parts of a VAE; `load` opens a trained run. The parts are in `flowvae.flows`,
`flowvae.models`, `flowvae.guides`, `flowvae.data`, `flowvae.inference` and `flowvae.evaluation`.
"""

import os as _os
import sys as _sys


def _end_if_interrupted(kind: type[BaseException], *rest: object) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        return _sys.__excepthook__(kind, *rest)  # type: ignore[arg-type]
    _os.write(2, b"flowvae: interrupted.\n")
    _os._exit(130)


if _sys.argv[:1] == ["-m"]:  # python -m flowvae.…, before Python has found the module
    _program = next((word for word in _sys.orig_argv if word.startswith("flowvae.")), "")
else:
    _program = _os.path.splitext(_os.path.basename(_sys.argv[0] if _sys.argv else ""))[0]
if _program.partition(".")[0] == "flowvae":  # until its `main` handles Ctrl-C
    _sys.excepthook = _end_if_interrupted

from typing import TYPE_CHECKING  # noqa: E402

from flowvae.core.lazy import lazy as _lazy  # noqa: E402
from flowvae.core.registry import discover as _discover  # noqa: E402

if TYPE_CHECKING:  # imported on first use, so that the command line starts quickly
    from flowvae.core.errors import FlowvaeError, SlowDirectionWarning
    from flowvae.core.parts import Condition, Cost, GuideSpec, LikelihoodSpec, NetworkSpec, PriorSpec, Units
    from flowvae.data import (
        CIFAR10,
        EMNIST,
        KMNIST,
        MNIST,
        SVHN,
        Arrays,
        CaltechSilhouettes,
        CelebA,
        DataSpec,
        Digits,
        FashionMNIST,
        FreyFaces,
        Images,
        Omniglot,
        Pinwheel,
        Sprites,
        StaticMNIST,
        TorchSource,
        as_data,
    )
    from flowvae.experiments.assemble import ModelGuide, build
    from flowvae.experiments.experiment import Experiment
    from flowvae.experiments.hub import pull, push
    from flowvae.experiments.run import Run, load
    from flowvae.experiments.stages import SecondStage
    from flowvae.experiments.train import fit_prior, train
    from flowvae.flows import IAF, MAF, NICE, NSF, CouplingNSF, FlowSpec, Glow, Inverse, RealNVP, TarFlow
    from flowvae.guides import FixedVariance, FlowGuide, FullRank, Gaussian, SemiAmortized
    from flowvae.inference import (
        BetaTraceELBO,
        BidirectionalTraceELBO,
        DReGTraceELBO,
        FreeBitsTraceELBO,
        IWAETraceELBO,
        PathTraceELBO,
        RenyiTraceELBO,
        Training,
    )
    from flowvae.models import (
        ConditionalBase,
        Contrastive,
        Energy,
        FlowDecoder,
        FlowMatching,
        LatentVariablePrior,
        Mixture,
        SequencePrior,
        StandardNormal,
        VampPrior,
    )
    from flowvae.networks import MLP, Conv, GatedConv, ResNet
else:
    __getattr__, __dir__ = _lazy(__name__)

# a new file in one of these packages is found without further registration
for _room in ("data", "flows", "networks", "models", "guides", "inference", "evaluation"):
    _discover(f"{__name__}.{_room}")

__version__ = "0.1.0"

__all__ = [
    "CIFAR10",
    "EMNIST",
    "IAF",
    "KMNIST",
    "MAF",
    "MLP",
    "MNIST",
    "NICE",
    "NSF",
    "SVHN",
    "Arrays",
    "BetaTraceELBO",
    "BidirectionalTraceELBO",
    "CaltechSilhouettes",
    "CelebA",
    "Condition",
    "ConditionalBase",
    "Contrastive",
    "Conv",
    "Cost",
    "CouplingNSF",
    "DReGTraceELBO",
    "DataSpec",
    "Digits",
    "Energy",
    "Experiment",
    "FashionMNIST",
    "FixedVariance",
    "FlowDecoder",
    "FlowGuide",
    "FlowMatching",
    "FlowSpec",
    "FlowvaeError",
    "FreeBitsTraceELBO",
    "FreyFaces",
    "FullRank",
    "GatedConv",
    "Gaussian",
    "Glow",
    "GuideSpec",
    "IWAETraceELBO",
    "Images",
    "Inverse",
    "LatentVariablePrior",
    "LikelihoodSpec",
    "Mixture",
    "ModelGuide",
    "NetworkSpec",
    "Omniglot",
    "PathTraceELBO",
    "Pinwheel",
    "PriorSpec",
    "RealNVP",
    "RenyiTraceELBO",
    "ResNet",
    "Run",
    "SecondStage",
    "SemiAmortized",
    "SequencePrior",
    "SlowDirectionWarning",
    "Sprites",
    "StandardNormal",
    "StaticMNIST",
    "TarFlow",
    "TorchSource",
    "Training",
    "Units",
    "VampPrior",
    "as_data",
    "build",
    "fit_prior",
    "load",
    "pull",
    "push",
    "train",
]
