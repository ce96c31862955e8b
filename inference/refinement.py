"""Refinement: fitting the parameters of an amortized guide's head, including its flow, to each data point."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError, check_int_value, shown
from flowvae.core.memory import check_memory
from flowvae.core.progress import Bar, bar
from flowvae.core.seeds import derive, random_state_kept, seeded
from flowvae.data.batch import Batch
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.flows.residual.residual import ContractiveMLP
from flowvae.guides import AmortizedGuide
from flowvae.guides.local_parameters import LINEAR, push, sobol_normal
from flowvae.inference.log_density import log_joint, only_site, sample_latents
from flowvae.networks import declare_parameters, in_eval_mode

__all__ = ["RefinedGuide", "refine"]

COMPARED = 256  # draws for comparing the refined parameters of a data point with its initial ones


class RefinedGuide(nn.Module):
    """z_n ~ q_n(z) with its own parameters, including those of the flow, for every data point, in a plate "data".

    It applies to the data that it was refined on, in any order and number, which it identifies by their values.

    Args:
        head: a head with parameters (N, ...), made by `individual`.
        features: input of the head, shape (N, context).
        batch: the data, with their condition.
        gain: increase of the ELBO of each data point, in nats, shape (N,); see `refine`.
        site: name of the latent site.
    """

    features: Tensor
    x: Tensor
    gain: Tensor

    def __init__(self, head: LazyDistribution, features: Tensor, batch: Batch, gain: Tensor, site: str) -> None:
        super().__init__()
        self.head = head
        self.site = site
        self.register_buffer("features", features)
        self.register_buffer("x", batch.args[0].clone())
        self.register_buffer("gain", gain)
        self._row = {key: row for row, key in enumerate(_keys(batch))}

    def forward(self, x: Tensor, c: Tensor | None = None, size: int | None = None) -> Tensor:
        """Sample as a guide for data (B, *event shape); takes the model's arguments, as Pyro requires."""
        declare_parameters("guide", self)
        with pyro.plate("data", len(x)):
            return pyro.sample(self.site, self.posterior(x, c))

    def posterior(self, x: Tensor, c: Tensor | None = None) -> pyro.distributions.TorchDistribution:
        """Return q_n(z) for B of the data points, shape (B, *event shape), with batch shape (B,).

        Raises:
            FlowvaeError: for data on which this guide was not refined.
        """
        rows = self.rows(x, c)
        return to_pyro(_rows(self.head, rows)(self.features[rows]))

    def rows(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Find the indices of data points among those of the refinement, shape (B,).

        Raises:
            FlowvaeError: for data on which this guide was not refined.
        """
        found = [self._row.get(key, -1) for key in _keys(Batch(x, c))]
        if -1 in found:
            condition = "" if c is None else " and its condition"
            raise FlowvaeError(
                f"x[{found.index(-1)}]{condition} of shape {tuple(x.shape[1:])} and {x.dtype}: this guide was "
                f"only refined on {len(self._row)} other data points; call refine on these."
            )
        return torch.tensor(found, device=self.x.device)


@in_eval_mode
def refine(
    model: Callable[..., Any],
    guide: AmortizedGuide,
    x: Tensor | Batch,
    *,
    steps: int = 500,
    learning_rate: float = 0.03,
    draws: int = 16,
    seed: int = 0,
    rows: int = 64,
    progress: bool = False,
) -> RefinedGuide:
    """Fit the parameters of the guide's head to each data point; model and guide are unchanged.

    Every data point gets its own copy of everything after the encoder: location and scale, and the flow with its
    networks, even if the amortized flow is static. The copy starts from the output of the amortized guide and maximizes
    its own ELBO by Adam, with a step size that decays to zero along a cosine. Model and guide are in evaluation mode
    during the fit, and so are the copies. The remaining distance to log p(x) is the approximation gap of the family;
    the gain is the amortization gap (Cremer, Li & Duvenaud 2018).

    The fits are independent and use the same noise. So up to rounding the result for a data point does not depend on
    the other data points, their order or their number. The exceptions are estimated densities (residual flows of many
    dimensions), through their noise, and CNFs, through the steps of their solver.

    Each data point keeps the better of its initial and its final parameters, by ELBOs on the same 256 draws of noise,
    which the fit has not used. So by *this estimate* no ELBO decreases: `RefinedGuide.gain` is not negative, and 0
    where the initial parameters were kept. The exact ELBO can decrease by the error of the estimate. A fit with
    parameters that are not finite keeps the initial ones.

    Args:
        model: Pyro model with one latent site, in one plate of the data.
        guide: the amortized guide to start from.
        x: data, shape (N, *event shape), or a batch with a condition.
        steps: number of Adam steps.
        learning_rate: Adam's initial step size.
        draws: draws from the guide for each data point and step; see `sobol_normal`.
        seed: random seed of the noise.
        rows: data points to fit at a time; bounds the memory and does not change the result.
        progress: whether to show a progress bar.

    Raises:
        FlowvaeError: for settings out of range, data of another shape or type, or a guide without a head, with several
            latent sites, or with a head that cannot be copied for each data point.
    """
    for part in ("check", "local", "head"):
        if not hasattr(guide, part):
            raise FlowvaeError(
                f"refine: {type(guide).__name__} has no `{part}`: it needs an amortized guide, an encoder with a head."
            )
    batch = Batch.of(x)
    guide.check(batch.x)
    for name, value in (("steps", steps), ("draws", draws), ("rows", rows)):
        check_int_value(f"refine: {name}", value)
    if not 0 < learning_rate < float("inf"):
        raise FlowvaeError(f"refine: learning_rate = {shown(learning_rate)}: must be a number above 0.")
    blocks = list(batch.split(rows))
    check_memory(f"refine: draws = {draws}", draws * blocks[0].args[0].nbytes, "use fewer")
    with torch.no_grad(), random_state_kept():
        site = only_site(sample_latents(guide, next(batch.split(1)), 1), "refine")
    heads, gains, features = [], [], []
    with (
        bar("refine", "step", len(blocks) * steps, progress=progress) as work,
        pyro.validation_enabled(False),
        torch.enable_grad(),
    ):
        for block in blocks:
            with torch.no_grad():
                its_features, local = guide.local(*block.args)
            head = individual(guide.head, its_features, local)
            latent = head(its_features).event_shape[0]
            fit = _BlockFit(model, head, its_features, block, site, latent, seed)
            heads.append(head)
            features.append(its_features)
            gains.append(fit(steps, learning_rate, draws, work))
    return RefinedGuide(_join(heads), torch.cat(features), batch, torch.cat(gains), site)


@dataclass
class _BlockFit:
    """The fit of a block of N data points; it changes the head in place."""

    model: Callable[..., Any]
    head: LazyDistribution
    features: Tensor
    batch: Batch
    site: str
    latent: int
    seed: int

    def __call__(self, steps: int, learning_rate: float, draws: int, work: Bar) -> Tensor:
        """Fit, and keep the better of initial and final parameters for each data point; return the gain in nats."""
        parameters = list(self.head.parameters())
        start = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            before = self.elbo(COMPARED, "compare")
        adam = torch.optim.Adam(parameters, lr=learning_rate)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        for step in range(steps):
            total = self.elbo(draws, step).sum()  # the gradient of the sum is separate for each data point
            # backward() would leave gradients in the model
            gradients = torch.autograd.grad(-total, parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            adam.step()
            decay.step()
            work.update()
        with torch.no_grad():
            after = self.elbo(COMPARED, "compare")
            better = after > before  # false for NaN, too
            for parameter, first in zip(parameters, start, strict=True):
                parameter.grad = None
                parameter.copy_(torch.where(better.reshape(-1, *[1] * (first.dim() - 1)), parameter, first))
        return torch.where(better, after - before, 0.0)

    def elbo(self, draws: int, purpose: str | int) -> Tensor:
        """Estimate the ELBO of each data point in nats, shape (N,), with the same noise for all."""
        own = derive(self.seed, "refine", purpose)
        with seeded(own):  # for densities that are themselves estimated
            z, log_q = push(self.head(self.features), sobol_normal(draws, self.latent, own, self.features))
            return (log_joint(self.model, self.batch, {self.site: z}) - log_q).mean(0)


def individual(head: LazyDistribution, features: Tensor, local: Mapping[str, Tensor]) -> LazyDistribution:
    """Copy a head with N values of every parameter, one for each row of the features (N, context).

    Layers whose only input is the features are replaced by their outputs, since a function of a constant is a constant.
    These local parameters and all weights of the flow are the free parameters of a data point. Called with the
    features, the copy returns the distributions of these local parameters.

    Raises:
        FlowvaeError: for a layer whose weights cannot be copied for each data point.
    """
    rows = len(features)

    def spread(parameter: Tensor) -> nn.Parameter:
        return nn.Parameter(parameter.detach().expand(rows, *parameter.shape).clone())

    copied = copy.deepcopy(head)
    for name, module in list(copied.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise FlowvaeError(
                "refine: batch normalization in the guide's head cannot be refined for each data point; move it into "
                "the encoder."
            )
        if isinstance(module, nn.LayerNorm):
            raise FlowvaeError(
                "refine: layer normalization in the guide's head, as in tarflow, cannot be refined for each data "
                "point. Use a flow of another family."
            )
        if isinstance(module, ContractiveMLP):
            raise FlowvaeError(
                "refine: a residual flow cannot be refined for each data point, because its networks bound one "
                "spectral norm for all of them. Use a flow of another family."
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
    """Restrict a head to some of its data points, with gradients to the original."""
    memo: dict[int, Any] = {id(parameter): parameter[rows] for parameter in head.parameters()}
    memo |= {id(buffer): buffer for buffer in head.buffers()}
    return copy.deepcopy(head, memo)


def _join(heads: list[LazyDistribution]) -> LazyDistribution:
    """Concatenate heads over their data points."""
    same = zip(*(head.parameters() for head in heads), strict=True)
    memo: dict[int, Any] = {id(parts[0]): nn.Parameter(torch.cat([part.detach() for part in parts])) for parts in same}
    return copy.deepcopy(heads[0], memo)


def _keys(batch: Batch) -> list[bytes]:
    parts = [[row.tobytes() for row in part.numpy(force=True)] for part in batch.args]
    return [b"".join(row) for row in zip(*parts, strict=True)]


class _Constant(nn.Module):
    """A free parameter that replaces a layer by its output for each data point, shape (N, out)."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output.detach().clone())

    def forward(self, _: Tensor) -> Tensor:
        return self.output


class _LinearEach(nn.Module):
    """A linear layer with its own weights for every data point: (..., N, in) → (..., N, out)."""

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
