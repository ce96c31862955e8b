"""Fitting a model/guide pair by stochastic variational inference."""

from __future__ import annotations

import json
import math
import re
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from tqdm.auto import tqdm

from flowvae.core.errors import DamagedError, FlowvaeError, check_choice, check_int, check_number, shown
from flowvae.core.memory import check_memory
from flowvae.core.seeds import derive, seeded
from flowvae.guides import AmortizedGuide
from flowvae.inference.annealing import Ramp, temper, weigh_latent
from flowvae.inference.checkpoint import history_table, load_checkpoint, save_checkpoint
from flowvae.inference.compile.capture import EagerWarning
from flowvae.inference.compile.compiled import MODES, CompiledTrace_ELBO
from flowvae.inference.not_finite import cause_at_start, extreme_value, outlier
from flowvae.inference.optim import FiniteTraceELBO, JointAdam, NonFiniteError
from flowvae.networks import eval_mode

__all__ = ["Fitted", "Training", "TrainingStopped", "best_weights", "choose_device", "fit"]


ENOUGH = 1000  # steps that pay for a capture
ADVICE = "try a lower inference.learning_rate or inference.clip, or a warm-up (inference.kl_warmup)"
DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,3})?|xpu(:[0-9]{1,3})?")


class TrainingStopped(FlowvaeError):  # noqa: N818  (what happened, not what class it is of)
    """A loss or gradient was not finite; the last good checkpoint is kept."""


@dataclass(frozen=True)
class Training:
    """Settings of the training.

    Args:
        epochs: passes over the training data at most.
        batch_size: data a step; more than there are means all of them.
        learning_rate: Adam's step size.
        particles: draws from the guide a datum and step.
        kl_weight: weight β of the KL term (Higgins et al. 2017); 1 is the ELBO. Training maximizes, and stops by, the
            objective with this weight; measures report the ELBO.
        kl_warmup: epochs over which the weight of the KL term grows from 0 to `kl_weight`.
        tempering: steps over which the weight of the joint grows from 0.01 to 1 (Rezende & Mohamed 2015).
        clip: the largest norm of the whole gradient, of the mean loss a datum; none: no clipping.
        weight_decay: decoupled weight decay of encoder, decoder and guide.
        prior_decay: the same for the prior. A flow prior on few data can memorize their codes; this is what
            holds it back.
        patience: epochs without a better validation ELBO after which training stops.
        validation_draws: draws from the guide a datum for the validation ELBO.
        checkpoint_seconds: the least time between two checkpoints.
        device: "auto", "cpu", "cuda", "cuda:0", "mps".
        compile: "none" runs model and guide in every step; "capture" and "inductor" repeat their tensor operations,
            see `CompiledTrace_ELBO`; "auto" captures where the training has enough steps to pay for it and the pair
            allows it.
    """

    epochs: int = 400
    batch_size: int = 32
    learning_rate: float = 1e-3
    particles: int = 1
    kl_weight: float = 1.0
    kl_warmup: int = 0
    tempering: int = 0
    clip: float | None = 10.0
    weight_decay: float = 0.0
    prior_decay: float = 0.0
    patience: int = 50
    validation_draws: int = 8
    checkpoint_seconds: float = 10.0
    device: str = "auto"
    compile: str = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "particles", "patience", "validation_draws"):
            check_int(self, name)
        for name in ("kl_warmup", "tempering"):
            check_int(self, name, least=0)
        check_choice(self, "compile", ("auto", "none", *MODES))
        if not isinstance(self.device, str) or not DEVICE.fullmatch(self.device):
            raise FlowvaeError(f"device = {shown(self.device)}: must be auto, cpu, cuda, cuda:0 or mps.")
        check_number(self, "learning_rate")
        check_number(self, "clip", optional=True)
        for name in ("weight_decay", "prior_decay", "checkpoint_seconds"):
            check_number(self, name, least=0)
        check_number(self, "kl_weight")
        if self.kl_warmup and self.tempering:
            raise FlowvaeError(
                f"kl_warmup = {self.kl_warmup} and tempering = {self.tempering}: two different annealings; "
                "set one of them to 0."
            )
        if self.kl_weight != 1 and self.tempering:
            raise FlowvaeError(
                f"kl_weight = {self.kl_weight} and tempering = {self.tempering}: a weighted KL term has no annealed "
                "joint; set kl_weight to 1 or tempering to 0."
            )
        if self.kl_warmup >= self.epochs:
            raise FlowvaeError(
                f"kl_warmup = {self.kl_warmup} with epochs = {self.epochs}: the warm-up would never end; "
                "use fewer epochs for it or more for the training."
            )

    def steps_an_epoch(self, rows: int) -> int:
        """How many steps one pass over this many data takes."""
        return math.ceil(rows / min(self.batch_size, rows))

    def check_memory(self, train: Tensor, valid: Tensor) -> None:
        """Refuse draws of which even the data that they stand for do not fit into memory."""
        for name, x, rows in (("particles", train, min(self.batch_size, len(train))), ("validation_draws", valid, 1)):
            draws = getattr(self, name)
            check_memory(f"inference.{name} = {draws}", draws * rows * x[0].nbytes, "use fewer")

    def check_steps(self, rows: int) -> None:
        """Refuse a tempering that outlasts the training on this many data."""
        steps = self.epochs * self.steps_an_epoch(rows)
        if self.tempering >= steps:
            raise FlowvaeError(
                f"tempering = {self.tempering} steps, but {self.epochs} epochs are {steps} steps: it would "
                "never end; use fewer steps for it or more epochs."
            )


@dataclass
class Fitted:
    """What a fit leaves: the pair carries the best weights.

    Args:
        history: one row an epoch: train and validation ELBO (nats per datum; with a KL weight, the weighted one),
            seconds, annealing weight, and whether its weights were kept.
        best_epoch: the epoch whose weights were kept.
    """

    history: pd.DataFrame
    best_epoch: int


@dataclass
class _Progress:
    """What changes from epoch to epoch, besides weights and optimizer."""

    epoch: int = 0
    best_epoch: int = -1
    best_elbo: float = -math.inf
    rows: list[dict[str, float]] = field(default_factory=list)


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU if there is one.

    Raises:
        FlowvaeError: if the machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise FlowvaeError(f"device = {shown(name)}: not available here ({reason}); use auto or cpu.") from None
    return device


def fit(
    model: nn.Module,
    guide: nn.Module,
    train: Tensor,
    valid: Tensor,
    settings: Training,
    seed: int = 0,
    checkpoint: Path | None = None,
    facts: dict[str, Any] | None = None,
    progress: bool = True,
) -> Fitted:
    """Train a Pyro model/guide pair by SVI with `Trace_ELBO`, and leave the best weights in it.

    All randomness of an epoch follows from the seed and the epoch's number, so a run that was killed and goes
    on from its checkpoint ends bit for bit where it would have ended. Best is the highest validation ELBO, weighted
    as the training objective is, after any annealing.

    The loss of a step is its sum over the batch, divided by the batch size, or by N if that is smaller. So the last
    batch of an epoch counts by its share of rows, and every datum has the same weight.

    Modules are trained in the mode that they are in (call `train()` first if they may be in evaluation mode, and
    `eval()` on parts that keep their statistics), validated in evaluation mode, and left as they were.

    Args:
        model: Pyro model, called with a batch (B, D).
        guide: Pyro guide, called with the same.
        train: training data, shape (N, D); kept on the device as one tensor.
        valid: validation data, shape (M, D).
        settings: how to train.
        seed: decides the order of the batches and the noise.
        checkpoint: file to write to, and to go on from if it exists.
        facts: settings of the pair, stored in the checkpoint and compared when going on from it.
        progress: whether to show a progress bar.

    Raises:
        TrainingStopped: if a loss or gradient is not finite, before it does harm.
        FlowvaeError: if the checkpoint is damaged or belongs to other settings, for data that do not fit, or settings
            that take more memory than there is.
    """
    for name, x in (("train", train), ("valid", valid)):
        if not isinstance(x, Tensor) or not x.numel():
            raise FlowvaeError(f"{name} = {shown(x)}: must be a tensor that holds data, shape (N, D).")
        if isinstance(guide, AmortizedGuide):
            guide.check(x)
    settings.check_steps(len(train))
    device = choose_device(settings.device)
    train, valid = train.to(device), valid.to(device)
    settings.check_memory(train, valid)
    pair = nn.ModuleDict({"model": model.to(device), "guide": guide.to(device)})
    pair.zero_grad()  # what others left there is no part of the first step
    optim = JointAdam(
        pair.named_parameters(),
        settings.learning_rate,
        settings.clip,
        lambda name: settings.prior_decay if name.startswith("model.prior.") else settings.weight_decay,
    )
    state = _Progress()
    best = _snapshot(pair)
    if checkpoint is not None and checkpoint.exists():
        state, best = _restore(checkpoint, pair, optim, facts)

    steps_an_epoch = settings.steps_an_epoch(len(train))
    rows = min(settings.batch_size, len(train))
    svi, ramp = _svi(model, guide, optim, settings, steps_an_epoch, rows)
    saved_at = time.monotonic()

    bar = tqdm(
        total=settings.epochs,
        initial=state.epoch,
        unit="epoch",
        disable=None if progress else True,
        leave=True,
    )
    with bar:
        while state.epoch < settings.epochs and not _out_of_patience(state, settings):
            started = time.perf_counter()
            ramp.step = state.epoch * steps_an_epoch
            weight = ramp()
            train_elbo = _train_epoch(svi, ramp, train, rows, settings, seed, state.epoch, checkpoint, (model, guide))
            valid_elbo = _validation_elbo(model, guide, valid, settings, seed)
            state.rows.append(
                {
                    "epoch": state.epoch,
                    "train_elbo": train_elbo,
                    "valid_elbo": valid_elbo,
                    "weight": weight,
                    "seconds": time.perf_counter() - started,
                }
            )
            if ramp() == ramp.end and state.best_elbo < valid_elbo < math.inf:
                state.best_epoch, state.best_elbo = state.epoch, valid_elbo
                best = _snapshot(pair)
            state.epoch += 1
            bar.update()
            bar.set_postfix_str(f"ELBO train {train_elbo:.2f}, valid {valid_elbo:.2f} nats", refresh=False)
            last = state.epoch == settings.epochs or _out_of_patience(state, settings)
            if checkpoint is not None and (
                last or time.monotonic() - saved_at >= settings.checkpoint_seconds or state.epoch == 1
            ):
                _save(checkpoint, pair, optim, state, best, facts)
                saved_at = time.monotonic()
    if state.best_epoch < 0:
        raise TrainingStopped(
            "the validation ELBO was never finite, so there are no best weights to keep: "
            f"{extreme_value('valid', valid)}. Leave out rows that are far from the others, or try a lower "
            f"inference.learning_rate{_elsewhere(checkpoint)}."
        )
    pair.load_state_dict(best)
    return Fitted(history_table(state.rows, state.best_epoch), state.best_epoch)


def _svi(
    model: nn.Module, guide: nn.Module, optim: JointAdam, settings: Training, steps_an_epoch: int, rows: int
) -> tuple[SVI, Ramp]:
    """Pyro's SVI over the annealed pair, on batches of so many rows, and the ramp that the annealing follows."""
    annealed_model: Callable[..., Any] = model
    annealed_guide: Callable[..., Any] = guide
    if settings.kl_warmup or settings.kl_weight != 1:
        ramp = Ramp(settings.kl_warmup * steps_an_epoch, start=0.0, end=settings.kl_weight)
        annealed_model, annealed_guide = weigh_latent(model, ramp), weigh_latent(guide, ramp)
    elif settings.tempering:
        ramp = Ramp(settings.tempering, start=0.01)
        annealed_model = temper(model, ramp)
    else:
        ramp = Ramp(0, start=1.0)
    # a mean over the batch, so that clipping means the same at every batch size
    mean = poutine.scale(scale=1 / rows)
    particles = {
        "num_particles": settings.particles,
        "max_plate_nesting": 1,
        "vectorize_particles": settings.particles > 1,
    }
    mode = settings.compile
    if mode == "auto":
        # so many steps are taken in any case
        surely = min(settings.epochs, settings.patience + 1) * steps_an_epoch
        mode = "capture" if surely >= ENOUGH else "none"
    loss = FiniteTraceELBO(**particles) if mode == "none" else CompiledTrace_ELBO(compile=mode, **particles)
    return SVI(mean(annealed_model), mean(annealed_guide), optim, loss), ramp


def _train_epoch(
    svi: SVI,
    ramp: Ramp,
    train: Tensor,
    rows: int,
    settings: Training,
    seed: int,
    epoch: int,
    checkpoint: Path | None,
    pair: tuple[nn.Module, nn.Module],
) -> float:
    """One pass over the data; the mean training ELBO in nats per datum, annealed where annealing is on."""
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    order = torch.randperm(len(train), generator=generator).to(train.device)
    total = 0.0
    with seeded(derive(seed, "noise", epoch)), warnings.catch_warnings(), pyro.validation_enabled(False):
        warnings.filterwarnings("ignore", message="Encountered NaN")  # FiniteTraceELBO raises instead
        if settings.compile == "auto":
            warnings.simplefilter("ignore", EagerWarning)
        for index, batch in enumerate(order.split(rows)):
            # Pyro's checks find a model's mistakes in its first step; after it they only cost time
            first = pyro.validation_enabled(True) if epoch == 0 and index == 0 else nullcontext()
            try:
                with first:
                    total += svi.step(train[batch])
            except FlowvaeError:
                raise
            except (NonFiniteError, ValueError) as error:
                if "more than 1 value per channel" in str(error):
                    raise FlowvaeError(
                        f"epoch {epoch}, batch {index}: {len(batch)} row{'s' * (len(batch) > 1)}, of which batch "
                        f"normalization has no variance; use a batch_size that does not leave such a rest of the "
                        f"{len(train)} rows of train."
                    ) from None
                if epoch == index == 0:  # the step size had no part in it yet
                    cause = cause_at_start(*pair, train, batch, settings.kl_weight)
                    advice = f"it is so before any step, so data or settings make it: {extreme_value('train', train)}"
                else:
                    cause, advice = outlier("train", train, batch), ADVICE
                if isinstance(error, ValueError) and cause is None:
                    raise  # a mistake in the model, which Pyro has found
                what = "the parameters of a density are not finite" if isinstance(error, ValueError) else error
                cause = cause or advice
                raise TrainingStopped(
                    f"epoch {epoch}, batch {index}: {what}; nothing was stepped, and {_kept(checkpoint)}. "
                    f"{cause[0].upper()}{cause[1:]}{_elsewhere(checkpoint)}."
                ) from None
            ramp.step += 1
    return -total * rows / len(train)


def _kept(checkpoint: Path | None) -> str:
    if checkpoint is None:
        return "no checkpoint was asked for"
    return f"the last checkpoint is {checkpoint}" if checkpoint.exists() else "there is no checkpoint yet"


def _elsewhere(checkpoint: Path | None) -> str:
    """Where other settings go: a checkpoint goes on with its own only."""
    return "" if checkpoint is None else ", into another directory or with --overwrite"


@torch.no_grad()
def _validation_elbo(model: nn.Module, guide: nn.Module, valid: Tensor, settings: Training, seed: int) -> float:
    """Mean ELBO in nats per datum, its KL term weighted as after any warm-up; the same noise at every epoch."""
    draws = settings.validation_draws
    pair: tuple[Callable[..., Any], ...] = (model, guide)
    if settings.kl_weight != 1:
        pair = tuple(weigh_latent(part, lambda: settings.kl_weight) for part in pair)
    rows = max(1, 4096 // draws)
    total = 0.0
    with (
        eval_mode(model, guide),
        seeded(derive(seed, "validation")),
        pyro.validation_enabled(False),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="Encountered NaN")  # such an epoch is not kept
        for batch in valid.split(rows):
            elbo = Trace_ELBO(num_particles=draws, max_plate_nesting=1, vectorize_particles=draws > 1)
            total -= elbo.loss(*pair, batch)
    return total / len(valid)


def _out_of_patience(state: _Progress, settings: Training) -> bool:
    return state.best_epoch >= 0 and state.epoch - 1 - state.best_epoch >= settings.patience


def _snapshot(pair: nn.ModuleDict) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in pair.state_dict().items()}


def _save(
    path: Path,
    pair: nn.ModuleDict,
    optim: JointAdam,
    state: _Progress,
    best: dict[str, Tensor],
    facts: dict[str, Any] | None,
) -> None:
    tensors = {f"best/{name}": value for name, value in best.items()}
    tensors |= {f"last/{name}": value for name, value in pair.state_dict().items()}
    tensors |= {f"adam/{name}": value for name, value in optim.state().items()}
    progress = {
        "epoch": state.epoch,
        "best_epoch": state.best_epoch,
        # infinity is not JSON
        "best_elbo": state.best_elbo if math.isfinite(state.best_elbo) else None,
        "rows": state.rows,
    }
    save_checkpoint(path, tensors, {"settings": facts, "progress": progress})


def best_weights(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The best state dicts of "model" and "guide" among the tensors of a checkpoint that `fit` wrote.

    Raises:
        DamagedError: if one of them holds NaN.
    """
    found: dict[str, dict[str, Tensor]] = {"model": {}, "guide": {}}
    for key, value in tensors.items():
        group, _, name = key.partition("/")
        if value.isnan().any():
            raise DamagedError(f"the checkpoint's {key} holds nan; restore the checkpoint, or train again.")
        if group == "best":
            part, _, name = name.partition(".")
            found[part][name] = value
    return found


def _restore(
    path: Path, pair: nn.ModuleDict, optim: JointAdam, facts: dict[str, Any] | None
) -> tuple[_Progress, dict[str, Tensor]]:
    tensors, stored = load_checkpoint(path)
    best_weights(tensors)  # which are whole
    if stored["settings"] != json.loads(json.dumps(facts)):  # as the file has them, tuples as lists
        raise FlowvaeError(
            f"{path}: belongs to other settings than those given; go on with the settings stored beside it, "
            "or name another directory."
        )
    device = next(pair.parameters()).device

    def part(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): value.to(device) for name, value in tensors.items() if name.startswith(prefix)
        }

    try:
        pair.load_state_dict(part("last/"))
        # Adam counts its steps on the device of the parameters when it is fused
        optim.restore(part("adam/"))
    except (RuntimeError, KeyError) as error:
        raise FlowvaeError(
            f"{path}: holds another model or guide ({str(error).splitlines()[0]}); go on with the pair that it belongs "
            "to, or name another file."
        ) from None
    progress = dict(stored["progress"])
    if progress["best_elbo"] is None:
        progress["best_elbo"] = -math.inf
    return _Progress(**progress), part("best/")
