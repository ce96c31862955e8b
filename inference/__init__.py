"""Stochastic variational inference: the training loop, guides for any model, annealing as handlers, checkpoints."""

from flowvae.inference.annealing import Ramp, temper, weigh_latent
from flowvae.inference.capture import EagerWarning
from flowvae.inference.checkpoint import checkpoint_digest, history_table, load_checkpoint, save_checkpoint
from flowvae.inference.compiled import MODES, CompiledTrace_ELBO
from flowvae.inference.fit import Fitted, Inference, TrainingStopped, best_weights, choose_device, fit
from flowvae.inference.fit_guide import GuideFit, GuideSettings, fit_guide
from flowvae.inference.joint import log_joint
from flowvae.inference.optim import FiniteTraceELBO, JointAdam
from flowvae.inference.path_gradient import PathTraceELBO
from flowvae.inference.refinement import RefinedGuide, refine
from flowvae.inference.replay import Replay

__all__ = [
    "MODES",
    "CompiledTrace_ELBO",
    "EagerWarning",
    "FiniteTraceELBO",
    "Fitted",
    "GuideFit",
    "GuideSettings",
    "Inference",
    "JointAdam",
    "PathTraceELBO",
    "Ramp",
    "RefinedGuide",
    "Replay",
    "TrainingStopped",
    "best_weights",
    "checkpoint_digest",
    "choose_device",
    "fit",
    "fit_guide",
    "history_table",
    "load_checkpoint",
    "log_joint",
    "refine",
    "save_checkpoint",
    "temper",
    "weigh_latent",
]
