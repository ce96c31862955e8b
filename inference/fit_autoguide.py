"""Fitting a guide to a Pyro model with fixed data."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer import SVI
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from flowvae.core.errors import SlowDirectionWarning, check_bool, check_choice, check_int, check_number
from flowvae.core.progress import bar
from flowvae.core.seeds import derive, one_thread, seeded
from flowvae.guides.automatic.auto_flow import AutoFlow
from flowvae.guides.automatic.masks import check_sites
from flowvae.inference.batch_and_match import (
    batch_and_match,
    match_curvature,
    maximize_smoothed,
    unconstrained_log_joint,
)
from flowvae.inference.check_guide import check_guide
from flowvae.inference.compile.capture import EagerWarning
from flowvae.inference.compile.compiled import MODES, CompiledTrace_ELBO
from flowvae.inference.guide_convergence import NotConvergedWarning, RemainingShift, remaining_shift
from flowvae.inference.objectives.path_gradient import (
    CompiledPathTraceELBO,
    PathTraceELBO,
    has_cheap_path,
    path_cost,
)
from flowvae.inference.optim import FiniteTraceELBO, JointAdam, NonFiniteError
from flowvae.inference.schedules import Cosine
from flowvae.inference.stopping import TrainingStopped
from flowvae.inference.vectorized import can_vectorize

__all__ = ["GuideFit", "GuideSettings", "fit_autoguide"]

LAST = 100  # steps over which losses are averaged when a fit is printed
ENOUGH = 200  # steps above which a capture pays off, and a fit is expected to converge
CHECKED = 100  # largest number of gradients by which convergence is checked


@dataclass(frozen=True)
class GuideSettings:
    """Settings of the fit of a guide.

    Args:
        steps: optimization steps.
        learning_rate: Adam's initial step size; it decays to zero along a cosine, which replaces averaging of the last
            iterates.
        particles: draws per step.
        clip: largest norm of the whole gradient; None: no clipping.
        path: whether to use path derivatives (`PathTraceELBO`), whose noise vanishes as the guide becomes exact,
            instead of the gradients of `Trace_ELBO`. They score every draw a second time. None: if this is cheap, see
            `has_cheap_path`.
        units: iterations of `batch_and_match` (`match_curvature` for a diagonal affine layer) before the first step,
            which initialize location and scale of an `AutoFlow` without encoders (other guides keep their own initial
            values); 0: none.
        vectorize: whether to run the model once for all draws of a step; if that changes log-densities, the fit warns
            and runs it once for each draw.
        compile: "none" runs model and guide in every step; "capture" and "inductor" repeat their tensor operations, see
            `CompiledTrace_ELBO`; "auto" captures if there are 200 steps or more and the pair allows it.
    """

    steps: int = 1500
    learning_rate: float = 0.01
    particles: int = 64
    clip: float | None = 10.0
    path: bool | None = None
    units: int = 100
    vectorize: bool = True
    compile: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "particles"):
            check_int(self, name)
        check_int(self, "units", least=0)
        check_number(self, "learning_rate")
        check_number(self, "clip", optional=True)
        check_bool(self, "vectorize")
        if self.path is not None:
            check_bool(self, "path")
        check_choice(self, "compile", ("auto", "none", *MODES))


@dataclass(frozen=True, repr=False)
class GuideFit:
    """The result of a fit besides the fitted guide.

    Args:
        losses: negative ELBO of each step in nats, shape (steps,); noisy estimates from the draws of the step.
        seconds: wall-clock time.
        path: whether the gradients were path derivatives.
        remaining: of an `AutoFlow` fitted for 200 steps or more, how far its location is from its optimum.
    """

    losses: Tensor
    seconds: float
    path: bool
    remaining: RemainingShift | None = None

    def __repr__(self) -> str:
        last = self.losses[-LAST:]
        elbo = f"ELBO {-last.mean().item():.2f} nats in the last {len(last)}"
        return f"GuideFit({len(self.losses)} steps: {elbo}; {self.seconds:.1f} s, path={self.path})"


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

    Path gradients are used if the guide scores a given value about as cheaply as it draws, such as a coupling flow or a
    Gaussian; otherwise, such as for an `IAF` over many latent variables, those of `Trace_ELBO`. The progress bar and
    the result say which. Before the first step, location and scale of an `AutoFlow` come from L-BFGS and score matching
    if its affine layer is full, from L-BFGS and the curvature if it is diagonal.

    The result depends only on the seed and on the guide's current parameters, if it has run before. Calls from several
    threads run one after another.
    Pyro's own autoguides store their parameters in Pyro's global store under the name of their class, so call
    `pyro.clear_param_store()` before each of them.

    Args:
        model: any Pyro model; if it is a module, its parameters are learned too.
        guide: its guide, a module.
        settings: settings of the fit; None: the defaults.
        args: arguments of model and guide, the same at every step; the model may subsample them.
        kwargs: keyword arguments.
        seed: random seed of initial values and noise.
        progress: whether to show a progress bar.

    Raises:
        TrainingStopped: if a loss or gradient is not finite, before the step is taken.
        FlowvaeError: for a guide whose ELBO is not a bound; see `flowvae.inference.check_guide`.

    Warns:
        NotConvergedWarning: if the location of an `AutoFlow` is clearly more than one standard deviation from its
            optimum after 200 steps or more.
        MixedDrawsWarning: if the model cannot run once for all draws of a step; see `GuideSettings.vectorize`.
        SlowDirectionWarning: for `path=True` if path gradients multiply the cost of a step.
    """
    settings, kwargs = settings or GuideSettings(), kwargs or {}
    started = time.perf_counter()
    with seeded(derive(seed, "start")):
        fresh = isinstance(guide, AutoGuide) and guide.prototype_trace is None
        guide(*args, **kwargs)  # autoguides create their parameters here
        path = _choose_path(guide, settings.path)
        with seeded(derive(seed, "check")):
            check_guide(model, guide, args, kwargs)
            check_sites(model, args, kwargs, guide, gradients=True)
            initial = guide if fresh and isinstance(guide, AutoFlow) and settings.units and not guide.encoder else None
            if settings.vectorize and (initial is not None or settings.particles > 1):
                settings = replace(settings, vectorize=can_vectorize(model, guide, args, kwargs))
        if initial is not None:
            layer = initial.affine_layer
            with torch.no_grad(), pyro.validation_enabled(False):
                loc, scale = layer.loc_and_scale()
                log_joint = unconstrained_log_joint(model, initial, args, kwargs, settings.vectorize)
                loc = maximize_smoothed(log_joint, loc, initial.init_scale)
                if scale.dim() == 2:
                    layer.restart(*batch_and_match(log_joint, loc, scale, settings.units))
                else:
                    layer.restart(loc, match_curvature(log_joint, loc, scale, settings.units))
    pair = nn.ModuleDict({"guide": guide} | ({"model": model} if isinstance(model, nn.Module) else {}))
    pair.zero_grad()  # gradients from earlier work must not enter the first step
    optim = JointAdam(pair.named_parameters(), settings.learning_rate, settings.clip)
    svi = SVI(model, guide, optim, _loss(settings, path))
    losses = torch.empty(settings.steps, dtype=torch.float64)
    with seeded(derive(seed, "noise")), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Encountered NaN")  # FiniteTraceELBO raises instead
        if settings.compile == "auto":
            warnings.simplefilter("ignore", EagerWarning)
        what = "path gradients" if path else "plain gradients"
        for step in (work := bar(what, "step", settings.steps, range(settings.steps), progress, leave=True)):
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
                work.set_postfix_str(f"ELBO {recent:.2f} nats", refresh=False)
        remaining = None
        if settings.steps >= ENOUGH and isinstance(guide, AutoFlow) and guide.latent_dim:
            with seeded(derive(seed, "convergence")), pyro.validation_enabled(False):
                count = min(CHECKED, settings.steps // 10)
                evaluate = partial(svi.loss_and_grads, model, guide, *args, **kwargs)
                remaining = remaining_shift(evaluate, pair, guide.affine_layer, count)
    if remaining is not None and remaining.is_clear:
        warnings.warn(
            f"after {settings.steps} steps of learning_rate {settings.learning_rate:g}, the location of the guide is "
            f"still about {remaining.distance:.0f} of its standard deviations from the optimum; use more steps, a "
            "larger learning_rate, or an init_loc_fn nearer to the posterior.",
            NotConvergedWarning,
            stacklevel=3,
        )
    return GuideFit(losses, time.perf_counter() - started, path, remaining)


def _choose_path(guide: nn.Module, wanted: bool | None) -> bool:
    """Whether to use path gradients; warns if they are requested and expensive."""
    if wanted is None:
        return has_cheap_path(guide)
    if wanted and not has_cheap_path(guide):
        cost = path_cost(guide)
        warnings.warn(
            f"path = True with {type(guide).__name__}: path gradients score each draw again, in {cost.density} network "
            f"passes a step; without them a step takes {cost.sample_and_density}. Use path = None.",
            SlowDirectionWarning,
            stacklevel=4,
        )
    return wanted


def _loss(settings: GuideSettings, path: bool) -> FiniteTraceELBO:
    particles = settings.particles
    how = {"num_particles": particles, "vectorize_particles": settings.vectorize and particles > 1}
    mode = settings.compile
    if mode == "auto":
        mode = "capture" if settings.steps >= ENOUGH else "none"
    if mode == "none":
        return (PathTraceELBO if path else FiniteTraceELBO)(**how)
    return (CompiledPathTraceELBO if path else CompiledTrace_ELBO)(compile=mode, **how)
