"""The ELBO as a captured program, with only the cost of the tensor operations of model and guide."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer.trace_elbo import _compute_log_r
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor
from torch.utils import _pytree as pytree

from flowvae.core.errors import check_choice
from flowvae.core.seeds import random_state_kept
from flowvae.inference.compile.capture import EagerWarning, Program
from flowvae.inference.compile.dependency_tracker import DependencyTracker
from flowvae.inference.compile.recorder import TracingError
from flowvae.inference.optim import FiniteTraceELBO, NonFiniteError

__all__ = ["MODES", "CompiledTrace_ELBO"]

MODES = ("capture", "inductor")
MAX_PROGRAMS = 32  # programs of a pair of model and guide
CHECKED_RUNS = 2  # runs of a program that are compared with Pyro's own


class CompiledTrace_ELBO(FiniteTraceELBO):  # noqa: N801  (named like Pyro's ELBOs)
    """`Trace_ELBO` that captures the tensor operations of model and guide and repeats only these.

        SVI(model, guide, optim, loss=CompiledTrace_ELBO())

    Loss and gradients equal Trace_ELBO's up to rounding, with the same random numbers from the same seed. Gradients,
    parameters and optimizers are the same objects.

    The first step captures a program. There is one program for every combination of the shapes of the tensor arguments
    (data, a condition), the values of other arguments, and the states of the modules: training or evaluation mode,
    which parameters require a gradient, device. From step to step these may change: the values of tensor arguments,
    parameters and buffers, the weights of `weigh_latent` and `temper`, and random numbers. All other Python
    values are constants from the time of the capture.

    The first two runs of a program are compared with Pyro's own. If the operations depend on the values of tensors, or
    if the results differ, this pair of model and guide is computed by `Trace_ELBO` from then on, and an `EagerWarning`
    names the cause. Arguments of distributions are validated in the first run of a program, if Pyro's validation is on.

    Args:
        compile: "capture", or "inductor" to compile the program as well. Inductor needs a C++ compiler and takes
            seconds to minutes; if it fails, the program is only captured, with an `EagerWarning`.
        settings: those of `Trace_ELBO`.

    Raises:
        FlowvaeError: for another `compile`.
    """

    def __init__(self, *, compile: str = "capture", **settings: Any) -> None:  # noqa: A002
        super().__init__(**settings)
        self.compile = compile
        check_choice(self, "compile", MODES)
        self._programs: dict[Any, list[Program]] = {}
        self._eager: set[Any] = set()  # pairs of model and guide that cannot be captured
        self._warned: set[str] = set()

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Compute the loss in nats, without gradients."""
        found = self._run(model, guide, args, kwargs, gradients=False)
        if found is None:
            return float(super().loss(model, guide, *args, **kwargs))
        return found[0].item()

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Compute the loss in nats, and add its gradients to those of the parameters.

        Raises:
            NonFiniteError: if the loss is not finite.
        """
        found = self._run(model, guide, args, kwargs, gradients=True)
        if found is None:
            return super().loss_and_grads(model, guide, *args, **kwargs)
        loss, leaves, gradients = found
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteError(f"the loss is {value}")
        grown: list[tuple[Tensor, Tensor]] = []
        for leaf, gradient in zip(leaves, gradients, strict=True):
            if leaf.grad is None:
                leaf.grad = gradient
            else:
                grown.append((leaf.grad, gradient))
        if grown:
            torch._foreach_add_(*map(list, zip(*grown, strict=True)))
        return value

    def program(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> tuple[Program, list[Tensor]] | None:
        """The program of loss and gradients for these arguments, with its tensor arguments.

        No step is taken, and the random state is kept. None if `Trace_ELBO` has to compute the pair.
        """
        found = None
        for _ in range(CHECKED_RUNS):
            found = self._program(model, guide, args, kwargs, gradients=True)
        return found

    def _run(
        self, model: Any, guide: Any, args: Any, kwargs: Any, gradients: bool
    ) -> tuple[Tensor, list[Tensor], list[Tensor]] | None:
        """Loss, leaves and their gradients from a program; None if Trace_ELBO has to compute them."""
        found = self._program(model, guide, args, kwargs, gradients)
        if found is None:
            return None
        program, arguments = found
        for handler in _PYRO_STACK:  # traces of `param` statements, such as SVI's
            for site in program.sites:
                handler._postprocess_message(site.copy())
        return program(arguments)

    def _program(
        self, model: Any, guide: Any, args: Any, kwargs: Any, gradients: bool
    ) -> tuple[Program, list[Tensor]] | None:
        """A program that fits, checked if it is new, and its arguments; None if Trace_ELBO has to compute."""
        for handler in _PYRO_STACK:
            if not isinstance(handler, TraceMessenger) or not handler.param_only:
                name = type(handler).__name__
                self._warn(f"{name} is active around the loss; apply it to the model or the guide instead")
                return None
        flat, spec = pytree.tree_flatten((args, kwargs))
        arguments = [value for value in flat if isinstance(value, Tensor)]
        key = (model, guide, gradients, self.num_particles, self.vectorize_particles, _ambient(), _kinds(flat), spec)
        try:
            programs = self._programs.setdefault(key, [])
        except TypeError as error:
            self._warn(f"an argument that is not a tensor cannot be hashed: {error}")
            return None
        if (model, guide) in self._eager:
            return None
        if self.vectorize_particles and self.max_plate_nesting == float("inf"):
            self._guess_max_plate_nesting(model, guide, args, kwargs)  # draws random numbers, as in Trace_ELBO
        program = next((program for program in programs if program.fits()), None)
        if program is None or program.checked_runs < CHECKED_RUNS:

            def terms(tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
                given = iter(tensors)
                values = [next(given) if isinstance(value, Tensor) else value for value in flat]
                return self._terms(model, guide, *pytree.tree_unflatten(values, spec))

            try:
                program = self._checked(program, terms, arguments, gradients, (model, guide))
            except TracingError as error:
                self._eager.add((model, guide))
                self._warn(str(error))
                return None
            if program not in programs:
                programs.append(program)
        return program, arguments

    def _checked(
        self,
        program: Program | None,
        terms: Callable[[list[Tensor]], tuple[Tensor, Tensor]],
        arguments: list[Tensor],
        gradients: bool,
        pair: tuple[Any, Any],
    ) -> Program:
        """Return the program, captured if None, after checking one run against Pyro's own; keeps the random state."""
        if any(value.requires_grad and not value.is_leaf for value in arguments):
            raise TracingError("an argument requires a gradient but is not a leaf")
        with random_state_kept():
            with DependencyTracker() as tracker:
                loss, surrogate = terms(arguments)
            leaves = [*tracker.leaves(), *(value for value in arguments if value.requires_grad)] if gradients else []
            grads: list[Tensor | None] = []
            if leaves and surrogate.requires_grad:
                grads = list(torch.autograd.grad(surrogate, leaves, allow_unused=True))
            tracker.undo()
        if program is None:
            made = [one for key, found in self._programs.items() if key[:2] == pair for one in found]
            if len(made) >= MAX_PROGRAMS:
                raise TracingError(
                    f"{MAX_PROGRAMS} programs have been captured; pass what changes as tensors of the same shapes"
                )
            with random_state_kept():
                program = Program(terms, tracker, arguments, gradients, self.compile == "inductor")
                tracker.undo()
        with random_state_kept():
            try:
                again, grown, found = program(arguments)
            except Exception as error:
                raise TracingError(f"the program does not run: {type(error).__name__}: {error}") from error
            tracker.undo()
        expected = {id(leaf): grad for leaf, grad in zip(leaves, grads, strict=False) if grad is not None}
        if expected.keys() != {id(leaf) for leaf in grown} or not _close(
            [loss.detach(), *(expected[id(leaf)] for leaf in grown)], [again, *found]
        ):
            raise TracingError(
                f"the program gives another loss ({again.item():.6g} instead of {loss.item():.6g}) or other gradients; "
                "something changes other than tensor arguments, parameters, buffers, annealing weights and torch's "
                "random numbers"
            )
        program.checked_runs += 1
        return program

    def _terms(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
        """Loss, and the surrogate loss whose gradient estimates that of the loss, as in `Trace_ELBO`."""
        loss: Any = 0.0
        surrogate: Any = 0.0
        for model_trace, guide_trace in self._get_traces(model, guide, args, kwargs):
            elbo: Any = model_trace.log_prob_sum()
            of_particle = elbo
            log_r: Any = None
            for site in guide_trace.nodes.values():
                if site["type"] != "sample":
                    continue
                _, score_function, entropy = site["score_parts"]
                elbo = elbo - site["log_prob_sum"]
                if not is_identically_zero(entropy):
                    of_particle = of_particle - entropy.sum()
                if not is_identically_zero(score_function):
                    log_r = _compute_log_r(model_trace, guide_trace) if log_r is None else log_r
                    of_particle = of_particle + (log_r.sum_to(site["cond_indep_stack"]) * score_function).sum()
            loss, surrogate = loss - elbo / self.num_particles, surrogate - of_particle / self.num_particles
        return torch.as_tensor(loss), torch.as_tensor(surrogate)

    def _warn(self, cause: str) -> None:
        if cause not in self._warned:
            self._warned.add(cause)
            warnings.warn(f"computed by Pyro, not compiled: {cause}.", EagerWarning, stacklevel=5)


def _kinds(flat: list[Any]) -> tuple[Any, ...]:
    """The arguments up to the values of tensors."""
    return tuple(
        (value.shape, value.dtype, value.device, value.requires_grad)
        if isinstance(value, Tensor)
        else (type(value), value)
        for value in flat
    )


def _ambient() -> tuple[Any, ...]:
    """The global settings of torch that operations depend on."""
    return (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        *((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")),
    )


def _close(ones: list[Tensor], others: list[Tensor]) -> bool:
    """Whether two losses, and two gradients as a whole, are equal up to the rounding of long sums."""
    for pair in ((ones[:1], others[:1]), (ones[1:], others[1:])):
        size, other = (sum(float(value.double().square().sum()) for value in side) ** 0.5 for side in pair)
        error = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(*pair, strict=True)) ** 0.5
        tolerance = torch.finfo(ones[0].dtype).eps ** 0.5
        if math.isfinite(size) != math.isfinite(other):
            return False
        if math.isfinite(size) and not error <= tolerance * max(1.0, size):
            return False
    return True
