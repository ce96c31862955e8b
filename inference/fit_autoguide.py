"""Fitting a guide to a Pyro model with fixed data."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import SVI
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn
from tqdm.auto import tqdm

from flowvae.core.errors import check_bool, check_int, check_number
from flowvae.core.seeds import derive, one_thread, seeded
from flowvae.guides.automatic.auto_flow import AutoFlow
from flowvae.guides.automatic.masks import check_sites
from flowvae.inference.batch_and_match import batch_and_match, maximize_smoothed, unconstrained_log_joint
from flowvae.inference.check_guide import check_guide
from flowvae.inference.objectives.path_gradient import PathTraceELBO
from flowvae.inference.optim import FiniteTraceELBO, JointAdam, NonFiniteError
from flowvae.inference.schedules import Cosine
from flowvae.inference.stopping import TrainingStopped

__all__ = ["GuideFit", "GuideSettings", "fit_autoguide"]


@dataclass(frozen=True)
class GuideSettings:
    """Settings of the fit of a guide.

    Args:
        steps: optimization steps.
        learning_rate: Adam's initial step size; it decays to zero along a cosine, which replaces averaging of the last
            iterates.
        particles: draws per step.
        clip: largest norm of the whole gradient; None: no clipping.
        path: whether to use path derivatives (`PathTraceELBO`) instead of the gradients of `Trace_ELBO`.
        units: iterations of `batch_and_match` before the first step, which initialize location and scale of an
            `AutoFlow` (other guides keep their own initial values); 0: none.
        vectorize: whether to run the model once for all draws of a step, which it must support.
    """

    steps: int = 1500
    learning_rate: float = 0.01
    particles: int = 64
    clip: float | None = 10.0
    path: bool = True
    units: int = 100
    vectorize: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "particles"):
            check_int(self, name)
        check_int(self, "units", least=0)
        check_number(self, "learning_rate")
        check_number(self, "clip", optional=True)
        for name in ("path", "vectorize"):
            check_bool(self, name)


@dataclass(frozen=True)
class GuideFit:
    """The result of a fit besides the fitted guide.

    Args:
        losses: negative ELBO of each step in nats, shape (steps,); noisy estimates from the draws of the step.
        seconds: wall-clock time.
    """

    losses: Tensor
    seconds: float


@one_thread()
def fit_autoguide(
    model: Callable[..., Any],
    guide: nn.Module,
    settings: GuideSettings | None = None,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> GuideFit:
    """Maximize the ELBO of a guide by SVI, with one Adam over model and guide and a decaying learning rate.

    The result depends only on the seed and on the guide's current parameters, if it has run before. Threads take turns.
    Pyro's own autoguides store their parameters in Pyro's global store under the name of their class, so call
    `pyro.clear_param_store()` before each of them.

    Args:
        model: any Pyro model; if it is a module, its parameters are learned too.
        guide: its guide, a module.
        settings: settings of the fit; None: the defaults.
        args: arguments of model and guide, the same at every step.
        kwargs: keyword arguments.
        seed: decides initial values and noise.
        progress: whether to show a progress bar.

    Raises:
        TrainingStopped: if a loss or gradient is not finite, before the step is taken.
        FlowvaeError: for a guide whose ELBO is not a bound; see `flowvae.inference.check_guide`.
    """
    settings, kwargs = settings or GuideSettings(), kwargs or {}
    started = time.perf_counter()
    loss = (PathTraceELBO if settings.path else FiniteTraceELBO)(
        num_particles=settings.particles, vectorize_particles=settings.vectorize and settings.particles > 1
    )
    with seeded(derive(seed, "start")):
        fresh = isinstance(guide, AutoGuide) and guide.prototype_trace is None
        guide(*args, **kwargs)  # autoguides create their parameters here
        with seeded(derive(seed, "check")):
            check_guide(model, guide, args, kwargs)
            check_sites(model, args, kwargs, guide, gradients=True)
        if fresh and isinstance(guide, AutoFlow) and settings.units:
            layer = guide.affine_layer
            with torch.no_grad(), pyro.validation_enabled(False):
                loc, scale_tril = layer.loc_and_scale()
                log_joint = unconstrained_log_joint(model, guide, args, kwargs)
                if not settings.vectorize:
                    log_joint = _one_by_one(log_joint)
                loc = maximize_smoothed(log_joint, loc, guide.init_scale)
                layer.restart(*batch_and_match(log_joint, loc, scale_tril, settings.units))
    pair = nn.ModuleDict({"guide": guide} | ({"model": model} if isinstance(model, nn.Module) else {}))
    pair.zero_grad()  # gradients from earlier work must not enter the first step
    optim = JointAdam(pair.named_parameters(), settings.learning_rate, settings.clip)
    svi = SVI(model, guide, optim, loss)
    losses = torch.empty(settings.steps, dtype=torch.float64)
    with seeded(derive(seed, "noise")), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Encountered NaN")  # FiniteTraceELBO raises instead
        for step in (bar := tqdm(range(settings.steps), unit="step", disable=None if progress else True)):
            optim.learning_rate = settings.learning_rate * Cosine().multiplier(step, settings.steps, [])
            # Pyro's validation finds errors of a model in its first step; later it only costs time
            try:
                with pyro.validation_enabled(step == 0):
                    losses[step] = svi.step(*args, **kwargs)
            except NonFiniteError as error:
                raise TrainingStopped(
                    f"step {step}: {error}; the step was not taken, and the guide is that of the step before. Try a "
                    "lower learning_rate, or another init_loc_fn or init_scale of the guide."
                ) from None
            if step % 100 == 99:
                recent = -losses[step - 99 : step + 1].mean()
                bar.set_postfix_str(f"ELBO {recent:.2f} nats", refresh=False)
    return GuideFit(losses, time.perf_counter() - started)


def _one_by_one(log_density: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Evaluate a function of (S, D) one row at a time."""
    return lambda z: torch.cat([log_density(row) for row in z.split(1)])
