"""Stochastic variational inference: the training loop, fits of guides, annealing handlers, checkpoints."""

import flowvae.core.validation  # noqa: F401  (before zuko)
from flowvae.inference.annealing import Ramp, temper, weigh_latent
from flowvae.inference.checkpoint import checkpoint_digest, history_table, load_checkpoint, save_checkpoint
from flowvae.inference.compile.capture import EagerWarning
from flowvae.inference.compile.compiled import MODES, CompiledTrace_ELBO
from flowvae.inference.compile.replay import Replay
from flowvae.inference.fit import Callback, Fitted, fit
from flowvae.inference.fit_autoguide import GuideFit, GuideSettings, fit_autoguide
from flowvae.inference.guide_convergence import NotConvergedWarning, RemainingShift
from flowvae.inference.log_density import log_joint
from flowvae.inference.objectives.beta import Beta, BetaTraceELBO
from flowvae.inference.objectives.bidirectional import Bidirectional, BidirectionalTraceELBO
from flowvae.inference.objectives.dreg import DReG, DReGTraceELBO
from flowvae.inference.objectives.elbo import ELBO
from flowvae.inference.objectives.free_bits import FreeBits, FreeBitsTraceELBO
from flowvae.inference.objectives.iwae import IWAE, IWAETraceELBO
from flowvae.inference.objectives.path_gradient import PathTraceELBO, StickingTheLanding
from flowvae.inference.objectives.renyi import Renyi, RenyiTraceELBO
from flowvae.inference.objectives.spec import ObjectiveSpec
from flowvae.inference.optim import FiniteTraceELBO, JointAdam
from flowvae.inference.refinement import RefinedGuide, refine
from flowvae.inference.schedules import Constant, Cosine, Plateau, ScheduleSpec, Step, WarmupCosine
from flowvae.inference.stopping import TrainingStopped
from flowvae.inference.trackers import TensorBoardTracker, Tracker
from flowvae.inference.training import Training, choose_device
from flowvae.inference.training_state import best_weights
from flowvae.inference.vectorized import MixedDrawsWarning

__all__ = [
    "ELBO",
    "IWAE",
    "MODES",
    "Beta",
    "BetaTraceELBO",
    "Bidirectional",
    "BidirectionalTraceELBO",
    "Callback",
    "CompiledTrace_ELBO",
    "Constant",
    "Cosine",
    "DReG",
    "DReGTraceELBO",
    "EagerWarning",
    "FiniteTraceELBO",
    "Fitted",
    "FreeBits",
    "FreeBitsTraceELBO",
    "GuideFit",
    "GuideSettings",
    "IWAETraceELBO",
    "JointAdam",
    "MixedDrawsWarning",
    "NotConvergedWarning",
    "ObjectiveSpec",
    "PathTraceELBO",
    "Plateau",
    "Ramp",
    "RefinedGuide",
    "RemainingShift",
    "Renyi",
    "RenyiTraceELBO",
    "Replay",
    "ScheduleSpec",
    "Step",
    "StickingTheLanding",
    "TensorBoardTracker",
    "Tracker",
    "Training",
    "TrainingStopped",
    "WarmupCosine",
    "best_weights",
    "checkpoint_digest",
    "choose_device",
    "fit",
    "fit_autoguide",
    "history_table",
    "load_checkpoint",
    "log_joint",
    "refine",
    "save_checkpoint",
    "temper",
    "weigh_latent",
]
