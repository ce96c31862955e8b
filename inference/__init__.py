"""Stochastic variational inference: the training loop, guides for any model, annealing as handlers, checkpoints."""

from flowvae.inference.annealing import Ramp, temper, weigh_latent
from flowvae.inference.checkpoint import checkpoint_digest, history_table, load_checkpoint, save_checkpoint
from flowvae.inference.compile.capture import EagerWarning
from flowvae.inference.compile.compiled import MODES, CompiledTrace_ELBO
from flowvae.inference.compile.replay import Replay
from flowvae.inference.fit import Fitted, Training, TrainingStopped, best_weights, choose_device, fit
from flowvae.inference.fit_autoguide import GuideFit, GuideSettings, fit_autoguide
from flowvae.inference.log_density import log_joint
from flowvae.inference.objectives.path_gradient import PathTraceELBO
from flowvae.inference.optim import FiniteTraceELBO, JointAdam
from flowvae.inference.refinement import RefinedGuide, refine

__all__ = [
    "MODES",
    "CompiledTrace_ELBO",
    "EagerWarning",
    "FiniteTraceELBO",
    "Fitted",
    "GuideFit",
    "GuideSettings",
    "JointAdam",
    "PathTraceELBO",
    "Ramp",
    "RefinedGuide",
    "Replay",
    "Training",
    "TrainingStopped",
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
