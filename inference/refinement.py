"""Refinement: an amortized guide's parameters, the flow's too, fitted again to each datum on its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError, check_int_value, shown
from flowvae.core.memory import check_memory
from flowvae.core.seeds import derive, seeded
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.flows.residual.residual import ContractiveMLP
from flowvae.guides import AmortizedGuide
from flowvae.guides.local_parameters import LINEAR, push, sobol_normal
from flowvae.inference.log_density import log_joint
from flowvae.networks import declare_parameters, in_eval_mode

__all__ = ["RefinedGuide", "refine"]

COMPARED = 256  # draws by which the refined parameters of a datum are compared with its first ones


class RefinedGuide(nn.Module):
    """z_n ~ q_n(z) with parameters of its own for every datum, flow and all: site "z" in a plate "data".

    It answers for the data that it was refined on, in any order, one block of them or all; it knows them by their
    values.

    Args:
        head: a head with parameters (N, ...), as `individual` makes it.
        features: of the encoder, shape (N, context).
        x: the data, shape (N, D).
        gain: by how much the ELBO of each datum has grown, in nats, shape (N,); see `refine`.
    """

    features: Tensor
    x: Tensor
    gain: Tensor

    def __init__(self, head: LazyDistribution, features: Tensor, x: Tensor, gain: Tensor) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("features", features)
        self.register_buffer("x", x)
        self.register_buffer("gain", gain)
        self._row = {key: row for row, key in enumerate(_keys(x))}

    def forward(self, x: Tensor, size: int | None = None) -> Tensor:
        """The guide for data of shape (B, D); takes the model's arguments, as Pyro wants it."""
        declare_parameters("guide", self)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.posterior(x))

    def posterior(self, x: Tensor) -> pyro.distributions.TorchDistribution:
        """q_n(z) for B of the data, shape (B, D), as a distribution of batch shape (B,).

        Raises:
            FlowvaeError: for data on which this guide was not refined.
        """
        rows = self.rows(x)
        return to_pyro(_rows(self.head, rows)(self.features[rows]))

    def rows(self, x: Tensor) -> Tensor:
        """Which of the data these are, shape (B,).

        Raises:
            FlowvaeError: for data on which this guide was not refined.
        """
        found = [self._row.get(key, -1) for key in _keys(x)]
        if -1 in found:
            raise FlowvaeError(
                f"x[{found.index(-1)}] of shape {tuple(x.shape[1:])} and {x.dtype}: this guide was refined on "
                f"{len(self._row)} other data, and knows nothing else. Call refine on these."
            )
        return torch.tensor(found, device=self.x.device)


@in_eval_mode
def refine(
    model: Callable[..., Any],
    guide: AmortizedGuide,
    x: Tensor,
    *,
    steps: int = 500,
    learning_rate: float = 0.03,
    draws: int = 16,
    seed: int = 0,
    rows: int = 64,
    progress: bool = False,
) -> RefinedGuide:
    """Fit the parameters of the guide's head to each datum, and leave model and guide as they are.

    Model and guide are in evaluation mode meanwhile, and the copies stay in it. Every datum has its own copy of
    everything after the encoder: of its location and scale, and of the flow with its networks, even where the
    amortized flow is static. It starts from what the amortized guide gives, and climbs its own ELBO by Adam, with a
    step that falls to zero along a cosine. What is left below log p(x) is the approximation gap of the family; what
    was gained is the amortization gap (Cremer, Li & Duvenaud 2018).

    The data do not see each other, and all use the same noise. So to rounding a datum's result depends neither on the
    data beside it nor on their order or number, unless a density does: one that is estimated (a residual flow of many
    dimensions) by its noise, that of a CNF by the steps of its solver.

    Each datum keeps the better of its first and its last parameters: the ELBOs are compared on the same 256 draws
    of noise, which the fit has not seen. So by *that estimate* no datum is worse than it was (`RefinedGuide.gain` is
    not negative, and 0 where the first ones were kept); by its exact ELBO one may be, by the estimate's error. A
    datum whose fit ends in numbers that are not finite keeps its first parameters.

    Args:
        model: Pyro model with sites "z" and "x" in one plate "data".
        guide: what to start from.
        x: data, shape (N, D).
        steps: Adam's steps.
        learning_rate: Adam's step size at the start.
        draws: draws from the guide a datum and step; see `sobol_normal`.
        seed: decides the noise.
        rows: data that are fitted at a time, which bounds the memory and changes no result.
        progress: whether to show a progress bar.

    Raises:
        FlowvaeError: for settings out of range, data that do not fit, or a guide whose head cannot be copied for each
            datum.
    """
    guide.check(x)
    for name, value in (("steps", steps), ("draws", draws), ("rows", rows)):
        check_int_value(f"refine: {name}", value)
    if not 0 < learning_rate < float("inf"):
        raise FlowvaeError(f"refine: learning_rate = {shown(learning_rate)}: must be a number above 0.")
    heads, gains, features = [], [], []
    blocks = x.split(rows)
    check_memory(f"refine: draws = {draws}", draws * min(rows, len(x)) * x[0].nbytes, "use fewer")
    with (
        tqdm(total=len(blocks) * steps, unit="step", desc="refine", disable=None if progress else True) as bar,
        pyro.validation_enabled(False),
        torch.enable_grad(),
    ):
        for block in blocks:
            with torch.no_grad():
                its_features, local = guide.local(block)
            head = individual(guide.head, its_features, local)
            latent = head(its_features).event_shape[0]
            climb = _Climb(model, head, its_features, block, latent, seed)
            heads.append(head)
            features.append(its_features)
            gains.append(climb(steps, learning_rate, draws, bar))
    return RefinedGuide(_join(heads), torch.cat(features), x.clone(), torch.cat(gains))


@dataclass
class _Climb:
    """The fit of a block of N data; it changes the head in place."""

    model: Callable[..., Any]
    head: LazyDistribution
    features: Tensor
    x: Tensor
    latent: int
    seed: int

    def __call__(self, steps: int, learning_rate: float, draws: int, bar: tqdm[Any]) -> Tensor:
        """Climb, and keep for each datum the better of its first and last parameters; the gain in nats, shape (N,)."""
        parameters = list(self.head.parameters())
        start = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            before = self.elbo(COMPARED, "compare")
        adam = torch.optim.Adam(parameters, lr=learning_rate)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        for step in range(steps):
            total = self.elbo(draws, step).sum()  # a sum: the gradient of each datum is its own
            # not backward(), which would leave gradients in the model
            gradients = torch.autograd.grad(-total, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            adam.step()
            decay.step()
            bar.update()
        with torch.no_grad():
            after = self.elbo(COMPARED, "compare")
            better = after > before  # false where it is not a number, too
            for parameter, first in zip(parameters, start, strict=True):
                parameter.grad = None
                parameter.copy_(torch.where(better.reshape(-1, *[1] * (first.dim() - 1)), parameter, first))
        return torch.where(better, after - before, 0.0)

    def elbo(self, draws: int, purpose: str | int) -> Tensor:
        """Of each datum, in nats, shape (N,), by noise that is the same for all of them."""
        own = derive(self.seed, "refine", purpose)
        with seeded(own):  # for densities that are estimated themselves
            z, log_q = push(self.head(self.features), sobol_normal(draws, self.latent, own, self.x))
            return (log_joint(self.model, self.x, z) - log_q).mean(0)


def individual(head: LazyDistribution, features: Tensor, local: Mapping[str, Tensor]) -> LazyDistribution:
    """A copy of a head in which every parameter has N values, one for each row of the features (N, context).

    The layers that see nothing but the features give way to what they put out (a function of a constant is a
    constant): these local parameters, and all weights of the flow, are the free parameters of a datum. Called with
    the features, the copy gives the distributions that the head makes of these local parameters.

    Raises:
        FlowvaeError: for a layer of whose weights there cannot be one for each datum.
    """
    rows = len(features)

    def spread(parameter: Tensor) -> nn.Parameter:
        return nn.Parameter(parameter.detach().expand(rows, *parameter.shape).clone())

    copied = copy.deepcopy(head)
    for name, module in list(copied.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise FlowvaeError(
                "refine: batch normalization in the guide's head cannot be refined for each datum; have it in the "
                "encoder."
            )
        if isinstance(module, ContractiveMLP):
            raise FlowvaeError(
                "refine: a residual flow cannot be refined for each datum, because its networks bound one spectral "
                "norm for all of them. Use a flow of another family."
            )
        if name in local:
            copied.set_submodule(name, _Constant(local[name]))
        elif isinstance(module, LINEAR):
            bias = None if module.bias is None else spread(module.bias)
            copied.set_submodule(name, _LinearEach(spread(module.weight), bias, getattr(module, "mask", None)))
        else:
            for key, parameter in module.named_parameters(recurse=False):
                setattr(module, key, spread(parameter))
    return copied


def _rows(head: LazyDistribution, rows: Tensor) -> LazyDistribution:
    """The head of some of its data, with gradients to the whole."""
    memo: dict[int, Any] = {id(parameter): parameter[rows] for parameter in head.parameters()}
    memo |= {id(buffer): buffer for buffer in head.buffers()}
    return copy.deepcopy(head, memo)


def _join(heads: list[LazyDistribution]) -> LazyDistribution:
    """One head of the data of several."""
    same = zip(*(head.parameters() for head in heads), strict=True)
    memo: dict[int, Any] = {id(parts[0]): nn.Parameter(torch.cat([part.detach() for part in parts])) for parts in same}
    return copy.deepcopy(heads[0], memo)


def _keys(x: Tensor) -> list[bytes]:
    return [row.tobytes() for row in x.numpy(force=True)]


class _Constant(nn.Module):
    """What a layer put out for each datum, shape (N, out), in the layer's place: a free parameter."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output.detach().clone())

    def forward(self, _: Tensor) -> Tensor:
        return self.output


class _LinearEach(nn.Module):
    """A linear layer with weights of its own for every datum: (..., N, in) → (..., N, out)."""

    mask: Tensor | None

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, mask: Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight if self.mask is None else self.mask * self.weight
        y = torch.einsum("...ni,noi->...no", x, weight)
        return y if self.bias is None else y + self.bias
