"""Settings of a training."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar

import torch

from flowvae.core.errors import FlowvaeError, check_choice, check_int, check_number, one_line, plain_number, shown
from flowvae.core.memory import check_memory
from flowvae.data.batch import Batch
from flowvae.inference.compile.compiled import MODES
from flowvae.inference.objectives.elbo import ELBO
from flowvae.inference.objectives.spec import ObjectiveSpec
from flowvae.inference.precision import PRECISIONS
from flowvae.inference.schedules import Constant, ScheduleSpec

__all__ = ["Training", "choose_device"]

DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,3})?|xpu(:[0-9]{1,3})?")
MACHINE = ("device", "checkpoint_seconds")  # settings that a checkpoint does not compare


@dataclass(frozen=True)
class Training:
    """Settings of a training.

    Args:
        epochs: largest number of passes over the training data.
        batch_size: data points per step, at most all of them.
        learning_rate: Adam's step size.
        schedule: learning-rate schedule.
        particles: draws from the guide per data point and step.
        kl_weight: weight β of the KL term (Higgins et al. 2017), as in the objective `Beta`; 1 is the ELBO. Training
            and early stopping use the objective with this weight; measures report the ELBO.
        kl_warmup: epochs over which the weight of the KL term grows from 0 to `kl_weight`.
        tempering: steps over which the weight of the joint grows from 0.01 to 1 (Rezende & Mohamed 2015).
        clip: largest norm of the whole gradient of the mean loss per data point; None: no clipping.
        weight_decay: decoupled weight decay of all parameters but the prior's.
        prior_decay: decoupled weight decay of the prior, against memorization of the codes of few data points by a
            flow prior.
        patience: epochs without a better validation ELBO after which training stops.
        validation_draws: draws from the guide per data point for the validation ELBO.
        checkpoint_seconds: shortest time between two checkpoints.
        device: "auto", "cpu", "cuda", "cuda:0", "mps".
        compile: "none" runs model and guide in every step. "capture" repeats their tensor operations, see
            `CompiledTrace_ELBO`. "inductor" compiles the whole step, optimizer included, to machine code before
            training, in about half a minute, or loads the program of an earlier training of the same shapes from disk.
            "auto" captures if min(epochs, patience + 1) epochs have at least 1000 steps; if all epochs have at least
            20,000, it also compiles in the background and switches when an epoch begins. Captured and compiled steps
            agree up to rounding; the other modes give the same bits for the same seed in every run.
        precision: "float32", or "bfloat16": the encoder and the decoder run in bfloat16 autocast in training steps.
            Parameters, densities, likelihoods, flows, the optimizer, validation and all measures stay in float32.
            A custom model or guide names such networks in an attribute `low_precision`, a tuple of modules. Large
            networks, especially convolutional ones, become faster; small ones, and all on a CPU without bfloat16
            instructions, may become slower. Compiled steps round differently: if their gradients differ from those of
            captured steps by 1/200, steps are captured only.
        objective: the objective to maximize: `ELBO`, `Beta`, `FreeBits`, `IWAE`, `DReG`, `StickingTheLanding`, `Renyi`
            or `Bidirectional`. Its value on validation data selects the best epoch; measures report the ELBO. An
            objective of K draws, such as `IWAE`, needs `particles` = 1; its validation value is a mean over
            ⌈`validation_draws` / K⌉ bounds.

    Attributes:
        extendable: settings that may change when a training continues from a checkpoint. If the others are equal,
            continuing with more `epochs` or a larger `patience` gives the result of a single training with them, bit
            for bit on one device (up to rounding if "auto" then captures or compiles).
    """

    epochs: int = 400
    batch_size: int = 32
    learning_rate: float = 1e-3
    schedule: ScheduleSpec = field(default_factory=Constant)
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
    precision: str = "float32"
    objective: ObjectiveSpec = field(default_factory=ELBO, metadata={"omit_default": True})

    extendable: ClassVar[tuple[str, ...]] = ("epochs", "patience", *MACHINE)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "particles", "patience", "validation_draws"):
            check_int(self, name)
        for name in ("kl_warmup", "tempering"):
            check_int(self, name, least=0)
        check_choice(self, "compile", ("auto", "none", *MODES))
        check_choice(self, "precision", PRECISIONS)
        if not isinstance(self.device, str) or not DEVICE.fullmatch(self.device):
            raise FlowvaeError(f"device = {shown(self.device)}: must be auto, cpu, cuda, cuda:0 or mps.")
        check_number(self, "learning_rate")
        check_number(self, "clip", optional=True)
        for name in ("weight_decay", "prior_decay", "checkpoint_seconds"):
            check_number(self, name, least=0)
        check_number(self, "kl_weight")
        if not isinstance(self.schedule, ScheduleSpec):
            raise FlowvaeError(f"schedule = {shown(self.schedule)}: must be a ScheduleSpec object, such as Cosine().")
        self.schedule.check(self.epochs)
        if not isinstance(self.objective, ObjectiveSpec):
            raise FlowvaeError(f"objective = {shown(self.objective)}: must be an ObjectiveSpec object, such as IWAE().")
        self.objective.check(self)
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

    def steps_per_epoch(self, rows: int) -> int:
        """Number of steps of one pass over this many data points."""
        return math.ceil(rows / min(self.batch_size, rows))

    def learning_rate_at(self, epoch: int, elbos: Sequence[float]) -> float:
        """Return the learning rate of an epoch, given the validation ELBOs of the earlier ones.

        Raises:
            FlowvaeError: if the schedule does not return a finite number, 0 or more.
        """
        found = plain_number(self.schedule.multiplier(epoch, self.epochs, elbos))
        if not isinstance(found, int | float) or not 0 <= found < math.inf:
            raise FlowvaeError(
                f"schedule = {shown(self.schedule)}: its multiplier of epoch {epoch} is {shown(found)}; must be a "
                "finite number, 0 or more."
            )
        return self.learning_rate * found

    def check_memory(self, train: Batch, valid: Batch) -> None:
        """Check that a batch of data points, repeated for each draw, fits into memory.

        Raises:
            FlowvaeError: if it does not fit.
        """
        batch = min(self.batch_size, len(train))
        own = self.objective.draws
        particles = ("particles", self.particles) if own is None else ("objective.particles", own)
        for (name, draws), data, rows in (
            (particles, train, batch),
            (("validation_draws", self.validation_draws), valid, 1),
        ):
            size = data.x.shape[1:].numel() * data.x.dtype.itemsize
            check_memory(f"inference.{name} = {draws}", draws * rows * size, "use fewer")

    def check_steps(self, rows: int) -> None:
        """Check that tempering ends within the training on this many data points.

        Raises:
            FlowvaeError: if it does not end.
        """
        steps = self.epochs * self.steps_per_epoch(rows)
        if self.tempering >= steps:
            raise FlowvaeError(
                f"tempering = {self.tempering} steps, but {self.epochs} epochs are {steps} steps: it would "
                "never end; use fewer steps for it or more epochs."
            )

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values for a checkpoint or a tracker, without those of the machine."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in MACHINE}
        for name in ("schedule", "objective"):
            part = plain[name]
            settings: dict[str, Any] = asdict(part) if is_dataclass(part) and not isinstance(part, type) else {}
            plain[name] = {"family": part.family or type(part).__qualname__, **settings}
        found: dict[str, Any] = json.loads(json.dumps(plain, default=repr))  # as in a file, with tuples as lists
        return found

    def check_extends(self, stored: dict[str, Any], taken: int) -> None:
        """Check that a checkpoint can be continued with these settings.

        Args:
            stored: `as_dict` of the checkpoint's training.
            taken: number of epochs that it has taken.

        Raises:
            FlowvaeError: for a setting that differs and is not `extendable`, or for `epochs` below those taken or with
                other learning rates for them.
        """
        given = self.as_dict()
        stored = {"objective": Training().as_dict()["objective"], **stored}  # newer than some checkpoints
        for name in sorted(given.keys() | stored.keys()):
            was, now = stored.get(name), given.get(name)
            if was != now and name not in self.extendable:
                raise FlowvaeError(
                    f"{name} = {shown(now)}: the checkpoint was trained with {shown(was)}; only "
                    f"{', '.join(self.extendable)} may change. Use that value, or train into another file."
                )
        if self.epochs < taken:
            raise FlowvaeError(
                f"epochs = {self.epochs}: the checkpoint has taken {taken} already; use at least as many."
            )
        if self.schedule.spans_training and stored["epochs"] != self.epochs:
            raise FlowvaeError(
                f"epochs = {self.epochs} with schedule = {shown(self.schedule)}: the checkpoint was trained for "
                f"{stored['epochs']} epochs, and with others its learning rates would have been different. Use "
                f"{stored['epochs']}, or train into another file."
            )


def choose_device(name: str) -> torch.device:
    """Return the device of this name; "auto" is a CUDA GPU if there is one, else the CPU.

    Raises:
        FlowvaeError: if the machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = one_line(str(error).splitlines()[0].split(". ")[0], 120)
        raise FlowvaeError(f"device = {shown(name)}: not available here ({reason}); use auto or cpu.") from None
    return device
