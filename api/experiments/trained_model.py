"""Trained models on a user's own data: codes, reconstructions, samples and log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Size, Tensor

from flowvae.core.errors import FlowvaeError, check_int_value, nearest, shown
from flowvae.core.memory import check_memory
from flowvae.core.progress import bar
from flowvae.core.seeds import derive, seeded
from flowvae.data import Batch
from flowvae.evaluation import from_base, has_base, importance_draws, log_mean, to_base
from flowvae.evaluation.likelihood.importance_weights import parts_of
from flowvae.experiments.assemble import ModelGuide
from flowvae.experiments.experiment import Experiment
from flowvae.experiments.numpy_io import as_codes, as_condition, as_rows, in_original_units, same_kind
from flowvae.experiments.signature import Signature
from flowvae.networks import eval_mode

__all__ = ["TrainedModel"]

BLOCK = 256  # data points in memory at a time
MEAN_DRAWS = 128  # averaged for the code, if the posterior mean has no closed form


@dataclass(frozen=True, repr=False)
class TrainedModel:
    """A model and its guide with trained weights, for data in their original units.

    Data x are NumPy arrays, tensors or data frames of shape (N, *event shape); results have the same kind (arrays for
    frames), on the device of x, in the model's floating-point type. A conditional model needs the condition c: labels
    (N,), as numbers or names of classes, one label for all, one-hot labels or covariates (N, C). Results have no
    gradients. Data points are read in blocks, so x may also be a memory-mapped array or a `Source`, for which results
    are tensors. A progress bar appears after 2 s.

    Model and guide are in evaluation mode: batch statistics and a noise scale that follows the data keep their trained
    values. To train them in your own loop, call `train()` of both first.

    Args:
        experiment: settings of the experiment.
        signature: description of the training data.
        pair: model and guide.
    """

    experiment: Experiment
    signature: Signature
    pair: ModelGuide

    def __post_init__(self) -> None:
        for part in self.pair:
            part.eval()

    def __repr__(self) -> str:
        parts = f"prior={shown(self.experiment.last_prior, 60)}, guide={shown(self.experiment.guide, 60)}"
        return f"{type(self).__name__}(data of shape {self.signature.shape}, latent={self.experiment.latent}, {parts})"

    @torch.no_grad()
    def encode(self, x: Any, c: Any = None, draws: int | None = None, *, seed: int = 0) -> Any:
        """Encode data as means of q(z | x), shape (N, *latent), or draws from it, (draws, N, *latent).

        If the mean has no closed form, as for a flow guide, it is estimated by the mean of 128 draws.

        Args:
            x: data (N, *event shape).
            c: condition, for a model whose guide reads one.
            draws: number of draws from each posterior; None: the mean.
            seed: seed of the draws.

        Raises:
            FlowvaeError: for data of another shape or outside the support, a missing condition, or draws that do not
                fit into memory.
        """
        condition, shape = self.experiment.condition, self.experiment.latent_shape
        reads = condition is not None and (condition.encoder or condition.guide or self.experiment.guide.follows_model)
        batch = self._batch("x", x, c, needed=reads)
        if draws is not None:
            check_int_value("draws", draws)
            check_memory(f"draws = {draws}", draws * len(batch) * shape.numel() * self._like.itemsize, "use fewer")
        return same_kind(self._codes(batch, draws, seed).unflatten(-1, shape), x)

    @torch.no_grad()
    def reconstruct(self, x: Any, c: Any = None, *, seed: int = 0) -> Any:
        """Compute E[x | z] at the codes `encode(x, c)`, shape (N, *event shape).

        Args:
            x: data (N, *event shape).
            c: condition.
            seed: seed of the draws, if the posterior mean has no closed form.

        Raises:
            FlowvaeError: see `encode`.
        """
        batch = self._batch("x", x, c)
        return same_kind(self._decoded(self._codes(batch, None, seed), batch.c), x)

    @torch.no_grad()
    def decode(self, z: Any, c: Any = None, *, of: str = "means", seed: int = 0) -> Any:
        """Decode codes to E[x | z], or to a draw of x for each, shape (..., N, *event shape).

        Args:
            z: codes (..., N, *latent), such as `encode(x)` or `encode(x, draws=10)`.
            c: condition of each of the N codes, for a model whose decoder reads one.
            of: "means" for E[x | z], "draws" for x itself.
            seed: seed of the draws.

        Raises:
            FlowvaeError: for codes of another shape or with values that are not finite, a missing condition, and
                results that do not fit into memory.
        """
        _check_kind(of)
        codes = as_codes(z, self.experiment.latent_shape, self._like)
        leading, reads = codes.shape[:-1], self.experiment.condition
        condition = self._condition(c, leading[-1], needed=reads is not None and reads.decoder)
        if condition is not None:
            condition = condition.expand(*leading, -1).flatten(0, -2)
        values = leading.numel() * math.prod(self.signature.shape) * self._like.itemsize
        check_memory(f"z: {leading.numel()} codes", values, "decode fewer")
        found = self._decoded(codes.flatten(0, -2), condition, of, seed)
        return same_kind(found.unflatten(0, leading), z)

    @torch.no_grad()
    def sample(self, n: int | None = None, c: Any = None, *, of: str = "means", seed: int = 0) -> Any:
        """Draw codes z from the prior, and return E[x | z] or a draw of x for each, shape (n, *event shape).

        The result is a NumPy array if c is one, and otherwise a tensor, on the device of c if c is a tensor.

        Args:
            n: number of draws; not needed if c has one row per draw.
            c: condition; a single label, such as 3 or "cat", holds for all draws.
            of: "means" for E[x | z], "draws" for x itself.
            seed: seed of the draws.

        Raises:
            FlowvaeError: if neither n nor c is given, for a missing condition or an unknown `of`, and for draws that do
                not fit into memory.
        """
        _check_kind(of)
        if n is not None:
            check_int_value("n", n)
        condition = self._condition(c, n)
        if n is None and condition is None:
            raise FlowvaeError("sample(): give the number of draws, sample(n), or the condition c of each.")
        rows = n if n is not None or condition is None else len(condition)
        assert rows is not None
        check_memory(f"n = {rows}", float(rows) * math.prod(self.signature.shape) * self._like.itemsize, "draw fewer")
        model, parts = self.pair.model, []
        with eval_mode(model):
            starts = range(0, rows, BLOCK)
            for number, start in enumerate(bar("new data", "block", len(starts), starts)):
                given = None if condition is None else condition[start : start + BLOCK]
                with seeded(derive(seed, "sample", number)):
                    prior = model.prior_given(given)
                    size = min(BLOCK, rows - start)
                    z = prior.sample() if prior.batch_shape else prior.sample(Size((size,)))
                    parts.append(self._x(z, given, of))
        return same_kind(torch.cat(parts), c)

    @torch.no_grad()
    def log_prob(self, x: Any, c: Any = None, draws: int = 1000, *, seed: int = 0) -> Any:
        """Estimate log p(x), or log p(x | c), in nats per data point, shape (N,), float64.

        For discrete data it is the log-probability. The importance-sampling estimate is
        log (1/S) Σ p(x, z_s) / q(z_s | x) with draws z_s from the guide; its expectation is below log p(x) and
        rises with S. `Run.evaluate` reports how reliable the weights are.

        Args:
            x: data (N, *event shape).
            c: condition.
            draws: number S of draws per data point.
            seed: seed of the draws.

        Raises:
            FlowvaeError: for data of another shape or outside the support, a missing condition, weights that are not
                finite, or draws that do not fit into memory.

        References:
            Burda, Grosse & Salakhutdinov (2016), "Importance Weighted Autoencoders".
        """
        batch = self._batch("x", x, c)
        check_int_value("draws", draws)
        with bar("log p(x)", "part", parts_of(len(batch), draws)) as shown:
            return same_kind(self._log_prob(batch, draws, seed, shown.update), x)

    @torch.no_grad()
    def classify(self, x: Any, draws: int = 1000, *, seed: int = 0) -> Any:
        """Compute log p(c | x), in nats, for a model conditioned on labels; shape (N, classes), float64.

        It is computed by Bayes' rule. Log p(x | c) is estimated as in `log_prob`, with the same noise for every
        class; p(c) is the share of the class in the training data, so a class without training data has −inf.

        Args:
            x: data (N, *event shape).
            draws: number of draws per data point and class.
            seed: seed of the draws.

        Raises:
            FlowvaeError: for a model that is not conditioned on labels; see `log_prob`.
        """
        counts = self.signature.frequencies
        if not counts:
            raise FlowvaeError(
                "classify: this model is not conditioned on labels; train one with Experiment(condition=Condition())."
            )
        rows = as_rows("x", x, self.signature, self._like)
        joint = torch.full((len(rows), len(counts)), -math.inf, dtype=torch.float64)
        check_int_value("draws", draws)
        known = [label for label, count in enumerate(counts) if count]
        with bar("classes", "part", len(known) * parts_of(len(rows), draws)) as shown:
            for label in known:
                batch = Batch(rows, self._condition(label, len(rows)))
                log_prob = self._log_prob(batch, draws, seed, shown.update)
                joint[:, label] = log_prob + math.log(counts[label] / sum(counts))
        return same_kind(joint.log_softmax(1), x)

    @torch.no_grad()
    def interpolate(self, a: Any, b: Any, steps: int = 9, c: Any = None, *, seed: int = 0) -> Any:
        """Compute E[x | z] along paths between the codes of two sets of data, shape (steps, N, *event shape).

        With a flow prior or a Gaussian, the path is a straight line in the base space, which stays in regions of high
        prior density. With any other prior, it is a straight line between the codes. Both include their endpoints.

        Args:
            a: data (N, *event shape) at the start of the paths.
            b: data (N, *event shape) at the end of the paths.
            steps: number of points of a path, including the endpoints; two or more.
            c: condition of both.
            seed: seed of the draws, if the posterior mean has no closed form.

        Raises:
            FlowvaeError: for fewer than two steps, or different numbers of data points.
        """
        check_int_value("steps", steps, least=2)
        first, last = self._batch("a", a, c), self._batch("b", b, c)
        if len(first) != len(last):
            raise FlowvaeError(f"a: {len(first)} data points, b: {len(last)}; must be the same number.")
        values = math.prod(self.signature.shape) + self.experiment.latent_shape.numel()
        check_memory(f"steps = {steps}", float(steps) * len(first) * values * self._like.itemsize, "use fewer")
        start, end = (self._codes(batch, None, seed) for batch in (first, last))
        parts = []
        with eval_mode(self.pair.model):
            for index in _blocks("ways between codes", len(start)):
                given = None if first.c is None else first.c[index]
                way = self._way(start[index], end[index], steps, given)
                parts.append(torch.stack([self._decoded(z, given) for z in way]))
        return same_kind(torch.cat(parts, 1), a)

    def _way(self, start: Tensor, end: Tensor, steps: int, c: Tensor | None) -> Iterator[Tensor]:
        """Yield codes (N, D) along the paths, point by point: a conditional flow takes one code per condition."""
        prior = self.pair.model.prior_given(c)
        start, end = start.to(self._like.device), end.to(self._like.device)
        based = has_base(prior)
        first, last = (to_base(prior, start), to_base(prior, end)) if based else (start, end)
        yield start
        for share in torch.linspace(0, 1, steps)[1:-1].tolist():
            between = torch.lerp(first, last, share)
            yield from_base(prior, between) if based else between
        yield end

    @property
    def _like(self) -> Tensor:
        """A tensor with the model's type and device."""
        return next(self.pair.guide.parameters())

    def _condition(self, c: Any, rows: int | None, needed: bool = True) -> Tensor | None:
        return as_condition(c, rows, self.signature, self.experiment.condition, self._like, needed)

    def _batch(self, name: str, x: Any, c: Any, needed: bool = True) -> Batch:
        rows = as_rows(name, x, self.signature, self._like)
        return Batch(rows, self._condition(c, len(rows), needed))

    def _codes(self, batch: Batch, draws: int | None, seed: int) -> Tensor:
        """Compute posterior means (N, D), or draws (draws, N, D), on the CPU."""
        guide, parts = self.pair.guide, []
        blocks = bar("codes", "block", -(-len(batch) // BLOCK), batch.split(BLOCK))
        for number, block in enumerate(blocks):
            with eval_mode(guide), seeded(derive(seed, "codes", number)), pyro.validation_enabled(False):
                posterior = guide.posterior(*block.args)
                parts.append((_mean(posterior) if draws is None else posterior.sample(Size((draws,)))).cpu())
        return torch.cat(parts, -2)

    def _decoded(self, codes: Tensor, c: Tensor | None, of: str = "means", seed: int = 0) -> Tensor:
        """Decode codes (N, D) to means or draws of x, shape (N, *event shape), in original units, on the CPU."""
        parts = []
        with eval_mode(self.pair.model):
            for number, index in enumerate(_blocks("decoded codes", len(codes))):
                given = None if c is None else c[index]
                with seeded(derive(seed, "decode", number)):
                    parts.append(self._x(codes[index].to(self._like.device), given, of))
        return torch.cat(parts)

    def _x(self, z: Tensor, c: Tensor | None, of: str) -> Tensor:
        model = self.pair.model
        x = model.mean(z, c) if of == "means" else model.decode(z, c).sample()
        return in_original_units(x, self.signature).cpu()

    def _log_prob(self, batch: Batch, draws: int, seed: int, tick: Callable[[], Any]) -> Tensor:
        """Estimate log p(x | c) of a batch, shape (N,), float64, on the CPU."""
        parts = importance_draws(*self.pair, batch, draws, seed, tick=tick)
        return torch.cat([log_mean(part.log_weight)[0].cpu() for part in parts])


def _check_kind(of: str) -> None:
    if of not in ("means", "draws"):
        raise FlowvaeError(f"of = {shown(of)}: {nearest(of, ('means', 'draws'))}")


def _blocks(what: str, rows: int) -> Iterator[Tensor]:
    """Yield indices of consecutive rows, with a progress bar."""
    indices = torch.arange(rows).split(BLOCK)
    yield from bar(what, "block", len(indices), indices)


def _mean(posterior: Any) -> Tensor:
    """Return the mean of a posterior, shape (B, D); if it has no closed form, the mean of draws."""
    try:
        mean: Tensor = posterior.mean
    except NotImplementedError:
        mean = posterior.sample(Size((MEAN_DRAWS,))).mean(0)
    return mean
