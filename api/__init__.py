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

from flowvae.core.errors import FlowvaeError, SlowDirectionWarning  # noqa: E402
from flowvae.data import Arrays, Digits, Pinwheel, Sprites, StaticMNIST  # noqa: E402
from flowvae.experiments.experiment import Experiment, fit_prior, load  # noqa: E402
from flowvae.experiments.families import register_flow  # noqa: E402
from flowvae.experiments.run import ModelGuide, Run  # noqa: E402
from flowvae.experiments.stages import SecondStage  # noqa: E402
from flowvae.flows import IAF, MAF, NICE, NSF, CouplingNSF, Inverse, RealNVP  # noqa: E402
from flowvae.guides import FlowGuide, FullRank, Gaussian, SemiAmortized  # noqa: E402
from flowvae.inference import Training  # noqa: E402
from flowvae.models import FlowDecoder, Mixture, StandardNormal  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "IAF",
    "MAF",
    "NICE",
    "NSF",
    "Arrays",
    "CouplingNSF",
    "Digits",
    "Experiment",
    "FlowDecoder",
    "FlowGuide",
    "FlowvaeError",
    "FullRank",
    "Gaussian",
    "Inverse",
    "Mixture",
    "ModelGuide",
    "Pinwheel",
    "RealNVP",
    "Run",
    "SecondStage",
    "SemiAmortized",
    "SlowDirectionWarning",
    "Sprites",
    "StandardNormal",
    "StaticMNIST",
    "Training",
    "fit_prior",
    "load",
    "register_flow",
]
