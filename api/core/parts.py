"""Specs of the parts of a VAE: conditional distributions, and the networks between them.

| part | symbol | the spec's `build` returns |
| --- | --- | --- |
| prior | p(z) or p(z given c) | a lazy distribution: condition in, distribution over z out |
| decoder network | h = g(z, c) | a module, event shape in, event shape out |
| likelihood | p(x given h) | a lazy distribution: decoder output in, distribution over x out |
| encoder network | e = f(x, c) | a module |
| guide head | q(z given e) | a lazy distribution: encoder output in, distribution over z out |

"Lazy distribution" is zuko's `LazyDistribution`: a module whose call maps a context to a distribution.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, get_args, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Size, Tensor, nn

from flowvae.core.errors import FlowvaeError, check_bool, check_choice, shown
from flowvae.core.registry import Spec, families, find

if TYPE_CHECKING:
    from zuko.lazy import LazyDistribution

__all__ = [
    "Condition",
    "Cost",
    "GuideSpec",
    "LikelihoodSpec",
    "NetworkSpec",
    "PriorSpec",
    "Units",
    "as_likelihood",
    "check_default_type",
    "parse_likelihood",
]


@dataclass(frozen=True)
class Cost:
    """Cost of a distribution, in passes through its networks.

    The docstring of a family without networks defines what counts as a pass.

    Args:
        density: log-density of a given z, the *normalizing* direction z → u; the cost of a prior in training.
        sample: one draw, the *generative* direction u → z; the cost of a prior in generation.
        sample_and_density: a draw with its own log-density; the cost of a guide in training.
    """

    density: int = 0
    sample: int = 0
    sample_and_density: int = 0


class PriorSpec(Spec, ABC, kind="prior"):
    """Settings of a prior p(z), or p(z | c). Every flow is a prior.

    Codes are flat vectors (..., D). The lazy distribution that `build` returns may also have

    - `bind(guide, train)`: called once after the guide has been built, for priors that depend on guide or data; it
      must store a module as a `flowvae.networks.Reference`, so that every parameter has one owner;
    - `follow(numbers)`: called before each training step with the indices (B,) of the training data points in the
      batch, and with None before the first step and after the last step of an epoch;
    - `objective(codes)`: the loss per code that a second stage minimizes in place of −log p(z); `objective(codes, c)`
      if the prior reads a condition;
    - `validate(codes)`, or `validate(codes, c)`: the loss that selects the best epoch of the second stage, if the
      objective does not measure quality; called once per epoch on codes of all validation data, in evaluation mode and
      with the same noise; it may store estimates in buffers;
    - `facts()`: properties of the density as plain values, such as the error of its normalizing constant; they are
      stored in every metric's protocol;
    - `statements(name, c)`, `guide_statements(name, z, c)` and `latent_sites(name)`: the Pyro statements of a prior
      with additional latent variables, where `name` is the site of the code;
    - `guide_above(name, q, c)` and `marginal(name, q, c)`, in place of `guide_statements`, for a guide that draws the
      additional latent variables before the code: q is the encoder's distribution over the code; the first samples
      these variables and returns the code's distribution given them, the second returns it with them integrated out.

    Attributes:
        proper: whether it is a normalized density on all of R^D for all values of its parameters.
        conditional: whether `build` can take a context.
        shaped: whether `build` takes the shape of the code, such as (C, H, W) for an image flow, instead of its size.
        trainable: whether it has parameters.
        tractable: whether log p(z) can be computed; false for an integral over latent variables.
        follows_guide: whether it is computed from the guide's posteriors, so that it changes with the guide.
    """

    roles: ClassVar[tuple[str, ...]] = ("prior",)
    proper: ClassVar[bool] = True
    conditional: ClassVar[bool] = True
    shaped: ClassVar[bool] = False
    trainable: ClassVar[bool] = True
    tractable: ClassVar[bool] = True
    follows_guide: ClassVar[bool] = False
    twice_differentiable: ClassVar[bool] = True  # whether second derivatives of its log-density are available
    why_not_joint: ClassVar[str] = ""  # the reason why it cannot be trained together with encoder and decoder
    why_not_second_stage: ClassVar[str] = ""  # the reason why it cannot be fitted to the codes of a trained VAE

    @abstractmethod
    def build(self, features: int, context: int = 0) -> LazyDistribution:
        """Build the distribution over codes (..., features), given a context of size `context` (0: none).

        A `shaped` family is called with the shape of the code in place of its size.
        """

    def cost(self, features: int) -> Cost:
        """Return the cost in network passes; zero by default."""
        return Cost()


class NetworkSpec(Spec, ABC, kind="network"):
    """Settings of an encoder or decoder network."""

    @abstractmethod
    def build(self, inputs: Size, outputs: Size | None = None, context: int = 0) -> nn.Module:
        """Build the network, (N, *inputs) → (N, *outputs).

        Args:
            inputs: event shape of the inputs.
            outputs: event shape of the outputs; None, for an encoder: features in a shape that the network chooses.
            context: size of a condition that it also reads (0: none); the module is then called with (inputs,
                condition), the condition of shape (N, context).
        """


class Units(NamedTuple):
    """Standardization of the data that networks read, (x − center) / unit; scalars, or of the shape of a data point."""

    center: Tensor
    unit: Tensor


class LikelihoodSpec(Spec, ABC, kind="likelihood"):
    """Settings of a likelihood p(x | h): the support of the data, and the shape of the decoder's outputs.

    Its text form, used by data sets, YAML and the command line, is the family's name, the value of its first setting,
    and the other settings by name: "bernoulli", "binomial:16", "logistic-mixture:255:components=10". Settings with
    their default values are left out.

    Attributes:
        discrete: whether p(x | h) is a probability of counts, so that bits/dim are an absolute code length.
        logarithmic: whether networks read log(1 + x) in place of x, before it is standardized: for counts without a
            largest.
        support: description of the support.
        largest: the largest value, where the support is 0, 1, …, largest; None for any other support.
    """

    discrete: ClassVar[bool]
    logarithmic: ClassVar[bool] = False
    support: Any  # a class attribute or a property of settings

    @property
    def largest(self) -> int | None:
        return None

    @abstractmethod
    def build(self, shape: Size, units: Units) -> LazyDistribution:
        """Build the lazy distribution: decoder outputs (..., *parameter_shape(shape)) in, distribution over x out.

        Args:
            shape: event shape of x, and of the distribution.
            units: result of `units(train)`.
        """

    def parameter_shape(self, shape: Size) -> Size:
        """Return the event shape of the decoder's outputs; by default that of the data."""
        return shape

    def units(self, train: Any) -> Units:
        """Return center and unit of the training data (N, *shape); 0 and 1 by default.

        Raises:
            FlowvaeError: for data whose dtype is not torch's default, the dtype of networks.
        """
        check_default_type(train.dtype)
        return Units(torch.zeros(()), torch.ones(()))

    def check(self, name: str, splits: Mapping[str, Any]) -> None:
        """Raise an error for data in the support whose density cannot be computed.

        Args:
            name: name of the data, for messages.
            splits: data (N, *shape) by the name of the split; "train" and possibly others.

        Raises:
            FlowvaeError: for such data, with the position of one of the values.
        """

    @abstractmethod
    def violations(self, x: Tensor) -> Tensor:
        """Return a boolean mask of the values outside the support, of the shape of x."""

    def offsets(self, train: NDArray[Any], kind: type) -> NDArray[np.float64] | None:
        """Return offsets to subtract from the data before a cast that would lose digits; None by default.

        Args:
            train: finite data (N, *shape), in a dtype that can represent them.
            kind: NumPy dtype to which the data are cast.

        Returns:
            Offsets of the event shape, 0 where no digits would be lost.
        """
        return None

    def __str__(self) -> str:
        parts = [self.family]
        for index, f in enumerate(fields(self)):  # type: ignore[arg-type]  # every named spec is a dataclass
            value = getattr(self, f.name)
            if f.default is MISSING or value != f.default:
                parts.append(f"{f.name}={_written(value)}" if index else _written(value))
        return ":".join(parts)

    @classmethod
    def form(cls) -> str:
        """Return the general text form, such as gaussian[:SCALE] or logistic-mixture:TOTAL[:components=...]."""
        parts = [cls.family]
        for index, f in enumerate(fields(cls)):  # type: ignore[arg-type]
            part = f":{f.name}=..." if index else f":{f.name.upper()}"
            needed = f.default is MISSING and f.default_factory is MISSING
            parts.append(part if needed else f"[{part}]")
        return "".join(parts)

    @classmethod
    def from_text(cls, value: str | None) -> LikelihoodSpec:
        """Read the likelihood from the part of its text form after the name; None: default settings.

        Raises:
            FlowvaeError: for an invalid or a missing value.
        """
        own = fields(cls)  # type: ignore[arg-type]
        texts = [] if value is None else value.split(":")
        label = ":".join([cls.family, *texts])
        given: dict[str, Any] = {}
        for index, text in enumerate(texts):
            name, equals, written = text.partition("=")
            if not equals:
                name, written = (own[0].name, text) if own and index == 0 else ("", text)
            if name not in {f.name for f in own} or name in given:
                raise FlowvaeError(f"likelihood {shown(label)}: must have the form {cls.form()}.")
            given[name] = _setting(get_type_hints(cls)[name], written)
            if given[name] is MISSING:
                raise FlowvaeError(
                    f"likelihood {shown(label)}: {name} = {shown(written)}; must have the form {cls.form()}."
                )
        if any(f.name not in given and f.default is MISSING and f.default_factory is MISSING for f in own):
            raise FlowvaeError(f"likelihood {shown(label)}: must have the form {cls.form()}.")
        return cls(**given)


def _written(value: object) -> str:
    """Format a setting for a text form."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _setting(hint: Any, text: str) -> Any:
    """Parse a setting of that type from text; MISSING if the text is invalid."""
    kinds = get_args(hint) or (hint,)
    words: dict[str, Any] = {"none": None} if type(None) in kinds else {}
    if bool in kinds:
        words |= {"true": True, "false": False}
    if text in words:
        return words[text]
    for kind in (int, float, str):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    return MISSING


def parse_likelihood(text: str) -> LikelihoodSpec:
    """Read a likelihood from its text form, such as gaussian:shared or logistic-mixture:255:components=10.

    Raises:
        FlowvaeError: for an unknown name or an invalid value.

    >>> parse_likelihood("binomial:16")
    BinomialLikelihood(total=16)
    """
    name, colon, value = text.partition(":")
    likelihood: LikelihoodSpec = find("likelihood", name).type.from_text(value if colon else None)
    return likelihood


def as_likelihood(label: str, value: object) -> LikelihoodSpec:
    """Return a likelihood unchanged, or read it from its text form.

    Raises:
        FlowvaeError: for anything else, or an invalid text form.
    """
    if isinstance(value, str):
        return parse_likelihood(value)
    if not isinstance(value, LikelihoodSpec):
        forms = ", ".join(families("likelihood"))
        raise FlowvaeError(f"{label} = {shown(value)}; must be a likelihood or its text form ({forms}).")
    return value


def check_default_type(dtype: torch.dtype) -> None:
    """Raise an error for data whose dtype is not torch's default, the dtype of networks.

    Raises:
        FlowvaeError: for such data.
    """
    if dtype != torch.get_default_dtype():
        raise FlowvaeError(
            f"train: {dtype}, but networks are built in {torch.get_default_dtype()}; convert the data (subtract a "
            f"large offset first), or call torch.set_default_dtype({dtype}) first."
        )


class GuideSpec(Spec, ABC, kind="guide"):
    """Settings of a guide head q(z | e), where e is the encoder's output.

    Attributes:
        follows_model: whether the guide changes with the model's density, so that its codes are not fixed.
    """

    follows_model: ClassVar[bool] = False

    @abstractmethod
    def build(self, features: int, context: int) -> LazyDistribution:
        """Build the distribution over codes (..., features) given encoder features (..., context)."""

    def improve(self, guide: Any, features: int, log_joint: Callable[[Any, Tensor], Tensor]) -> Any:
        """Improve an amortized guide with the model's density; by default, return it unchanged.

        Args:
            guide: the amortized guide with this head.
            features: size of the code.
            log_joint: function of a batch of N data points and codes (S, N, features), returning log p(x, z) in nats,
                shape (S, N).
        """
        return guide

    def cost(self, features: int) -> Cost:
        """Return the cost in network passes after the encoder; zero by default."""
        return Cost()


@dataclass(frozen=True)
class Condition:
    """Condition c of a conditional VAE p(x | c), and the parts that depend on it.

    With the prior N(0, I), which does not depend on c, and an encoder and a decoder that do, the model is the CVAE of
    Sohn et al. If the decoder does not read c, x depends on c only through the prior.

    Args:
        on: "labels" (one-hot, by class) or "covariates" (the numbers `Dataset.conditions`).
        prior: whether p(z) becomes p(z | c).
        encoder: whether the encoder network reads c.
        guide: whether the guide head reads c in addition to the encoder's features.
        decoder: whether the decoder network reads c.

    References:
        Sohn, Lee & Yan (2015), "Learning Structured Output Representation using Deep Conditional Generative Models".
    """

    on: str = "labels"
    prior: bool = True
    encoder: bool = True
    guide: bool = True
    decoder: bool = True

    def __post_init__(self) -> None:
        check_choice(self, "on", ("labels", "covariates"))
        for part in ("prior", "encoder", "guide", "decoder"):
            check_bool(self, part)
        if not (self.prior or self.decoder):
            raise FlowvaeError(
                "Condition.prior = false, decoder = false: the model would not depend on c; set one of them to true."
            )
