"""Variational autoencoders as Pyro model/guide pairs, with normalizing flows as priors and in guides.

`Experiment` names the parts; `load` opens a run. The parts live in `flowvae.flows`, `flowvae.models`,
`flowvae.guides`, `flowvae.data`, `flowvae.inference` and `flowvae.evaluation`.
"""

import os as _os
import sys as _sys


def _end_if_interrupted(kind: type[BaseException], *rest: object) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        return _sys.__excepthook__(kind, *rest)  # type: ignore[arg-type]
    print("flowvae: interrupted.", file=_sys.stderr, flush=True)
    _os._exit(130)


if _os.path.splitext(_os.path.basename(_sys.argv[0] if _sys.argv else ""))[0] == "flowvae":
    # The command spends seconds on the imports below, before its `main` can answer an interruption.
    _sys.excepthook = _end_if_interrupted

import pyro as _pyro  # noqa: E402
from torch.distributions import Distribution as _Distribution  # noqa: E402

# Importing zuko switches off torch's validation for the whole process, so that Normal(0, -1) passes silently.
# Leave it as it was; where zuko came first, Pyro's own flag, which zuko does not touch, tells how that was.
_validation = (
    _pyro.settings.get("validate_distributions_pyro") if "zuko" in _sys.modules else _Distribution._validate_args
)
import zuko as _zuko  # noqa: E402, F401

_Distribution.set_default_validate_args(_validation)

from flowvae import data as _data  # noqa: E402
from flowvae import evaluation as _evaluation  # noqa: E402
from flowvae import flows as _flows  # noqa: E402
from flowvae import guides as _guides  # noqa: E402
from flowvae import inference as _inference  # noqa: E402
from flowvae import models as _models  # noqa: E402
from flowvae import networks as _networks  # noqa: E402
from flowvae.core.errors import FlowvaeError, SlowDirectionWarning  # noqa: E402
from flowvae.core.parts import Condition, Cost, GuideSpec, LikelihoodSpec, NetworkSpec, PriorSpec, Units  # noqa: E402
from flowvae.core.registry import discover as _discover  # noqa: E402
from flowvae.data import Arrays, DataSpec, Digits, Pinwheel, Sprites, StaticMNIST, TorchSource, as_data  # noqa: E402
from flowvae.experiments.assemble import ModelGuide, build  # noqa: E402
from flowvae.experiments.experiment import Experiment  # noqa: E402
from flowvae.experiments.run import Run, load  # noqa: E402
from flowvae.experiments.stages import SecondStage  # noqa: E402
from flowvae.experiments.train import fit_prior, train  # noqa: E402
from flowvae.flows import IAF, MAF, NICE, NSF, CouplingNSF, FlowSpec, Glow, Inverse, RealNVP  # noqa: E402
from flowvae.guides import FlowGuide, FullRank, Gaussian, SemiAmortized  # noqa: E402
from flowvae.inference import Training  # noqa: E402
from flowvae.models import FlowDecoder, LatentVariablePrior, Mixture, StandardNormal  # noqa: E402
from flowvae.networks import MLP, Conv, ResNet  # noqa: E402

# a new file in one of these rooms needs no other line
for _room in (_data, _flows, _networks, _models, _guides, _inference, _evaluation):
    _discover(_room)

__version__ = "0.1.0"

__all__ = [
    "IAF",
    "MAF",
    "MLP",
    "NICE",
    "NSF",
    "Arrays",
    "Condition",
    "Conv",
    "Cost",
    "CouplingNSF",
    "DataSpec",
    "Digits",
    "Experiment",
    "FlowDecoder",
    "FlowGuide",
    "FlowSpec",
    "FlowvaeError",
    "FullRank",
    "Gaussian",
    "Glow",
    "GuideSpec",
    "Inverse",
    "LatentVariablePrior",
    "LikelihoodSpec",
    "Mixture",
    "ModelGuide",
    "NetworkSpec",
    "Pinwheel",
    "PriorSpec",
    "RealNVP",
    "ResNet",
    "Run",
    "SecondStage",
    "SemiAmortized",
    "SlowDirectionWarning",
    "Sprites",
    "StandardNormal",
    "StaticMNIST",
    "TorchSource",
    "Training",
    "Units",
    "as_data",
    "build",
    "fit_prior",
    "load",
    "train",
]
