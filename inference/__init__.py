"""Stochastic variational inference: the training loop, annealing as Pyro handlers, checkpoints."""

from flowvae.inference.annealing import Ramp, temper, weigh_latent
from flowvae.inference.capture import EagerWarning
from flowvae.inference.checkpoint import atomic_write, load_checkpoint, save_checkpoint
from flowvae.inference.compiled import CompiledTrace_ELBO
from flowvae.inference.fit import Fitted, Inference, TrainingStopped, choose_device, fit
from flowvae.inference.optim import FiniteTraceELBO, JointAdam

__all__ = [
    "CompiledTrace_ELBO",
    "EagerWarning",
    "FiniteTraceELBO",
    "Fitted",
    "Inference",
    "JointAdam",
    "Ramp",
    "TrainingStopped",
    "atomic_write",
    "choose_device",
    "fit",
    "load_checkpoint",
    "save_checkpoint",
    "temper",
    "weigh_latent",
]
