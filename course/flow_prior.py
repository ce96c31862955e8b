"""Exercises of notebook 6: the flow prior."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from flowvae.core.seeds import seeded
from flowvae.course.exercise import Wrong, answered, exercise
from flowvae.flows import MAF

Map = Callable[[Tensor], tuple[Tensor, Tensor]]
Elbos = Callable[[Tensor, Tensor, Tensor, Map, Map, Callable[[Tensor], Tensor]], tuple[Tensor, Tensor]]
LATENT, TRANSFORMS = 16, 5


def start_as_identity(network: nn.Sequential) -> nn.Sequential:
    """A zero last layer gives a = b = 0 for any input, while random hidden layers give different features.

    The last layer's gradient is an outer product with these features, so it is not zero. From the second step on the
    last layer is not zero either, and the hidden layers have a gradient too.
    """
    for parameter in network[-1].parameters():
        nn.init.zeros_(parameter)
    return network


@exercise(
    start_as_identity,
    hints=(
        "The output has to be 0 for every input. Which layer alone can ensure that?",
        "If the hidden layers are zero as well, which gradient does the last layer's weight receive?",
        "nn.init.zeros_ fills a parameter with zeros; network[-1] is the last layer.",
    ),
)
def identity(answer: Callable[[nn.Sequential], nn.Module]) -> str:
    """Judges a function that makes the network of a flow start at zero, without blocking its training."""
    with seeded(0):
        network = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
        inputs, target = torch.randn(2, 200, 4)
    started = answered(answer(copy.deepcopy(network)))
    if not isinstance(started, nn.Module):
        raise Wrong(f"return the network; you returned a {type(started).__name__}.")
    inputs = inputs[:, :3]
    with torch.no_grad():
        output = started(inputs)
    largest = output.abs().max().item()
    if largest > 0:
        if torch.allclose(output, output[:1].expand_as(output)):
            raise Wrong("the output is the same for every input, but not 0: set the last bias to zero too.")
        raise Wrong(f"the output is up to {largest:.2g}, not 0, so the flow is not the identity.")
    adam = torch.optim.Adam(started.parameters(), 1e-2)
    for _ in range(5):
        adam.zero_grad()
        (started(inputs) - target * inputs[:, :1]).square().mean().backward()
        adam.step()
    with torch.no_grad():
        spread = started(inputs).std(0).max().item()
    if spread < 1e-6:
        raise Wrong(
            "it starts as the identity, but after five steps of training the output still does not depend on the "
            "input: with hidden features of zero, the weights of the last layer have no gradient."
        )
    return f"It starts at 0; after five steps the output varies over the inputs by {spread:.2f}."


def cost_of_maf() -> tuple[int, int]:
    """The density needs the whole code at once: one pass in each of 5 transforms.

    A sample is built number by number: 16 passes in each transform.
    """
    return 5, 5 * 16


@exercise(
    cost_of_maf,
    hints=(
        "A MAF's network computes a(z_<i) and b(z_<i) for all i at once, if all of z is known.",
        "In sampling, the second number of z needs the first, the third needs both, and so on.",
    ),
    value=True,
)
def passes(answer: Any) -> str:
    """Judges the network passes of a density and of a sample."""
    cost = MAF(transforms=TRANSFORMS).cost(LATENT)
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise Wrong(f"{answer!r} is not a pair of numbers, (density, sample).")
    density, sample = answer
    if (density, sample) == (cost.sample, cost.density):
        raise Wrong("these are the costs of an IAF. Which direction does a density need?")
    if density != cost.density:
        raise Wrong(f"density = {density}: in each transform the network sees the whole code at once.")
    if sample != cost.sample:
        raise Wrong(f"sample = {sample}: each transform builds its output number by number.")
    return "As a guide it would cost both at each step of the training."


def both_elbos(
    noise: Tensor, loc: Tensor, scale: Tensor, to_base: Map, from_base: Map, log_likelihood: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The prior's log-determinant of T⁻¹ at z is the guide's, with the other sign.

    The warped guide is itself a flow from the noise to u: it scales, with log-determinant Σ log σ, and applies T⁻¹,
    whose log-determinant at z is minus that of T at u. The latter comes with the pass that the decoder g∘T makes.
    """

    def log_normal(v: Tensor) -> Tensor:
        return Normal(0.0, 1.0).log_prob(v).sum(-1)

    log_gaussian = log_normal(noise) - scale.log().sum(-1)  # log q(z | x)
    z = loc + scale * noise
    u, log_det = to_base(z)
    first = log_likelihood(z) + log_normal(u) + log_det - log_gaussian
    decoded, log_det_of_t = from_base(u)
    log_warped = log_gaussian + log_det_of_t
    return first, log_likelihood(decoded) + log_normal(u) - log_warped


@exercise(
    both_elbos,
    hints=(
        "Each ELBO has three terms: log-likelihood + log-prior − log-density of the guide's draw.",
        "first: the prior's log-density at z is log N(u) + log|det ∂u/∂z|, both from to_base(z).",
        "second: u = T⁻¹(z) is a change of variables, so its log-density is log q(z | x) − log|det ∂u/∂z|.",
    ),
)
def elbos(answer: Elbos) -> str:
    """Judges a function that returns both ELBOs of Chen et al., one number for each draw."""
    case = _Case()
    found = answered(answer(*case.arguments))
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Wrong("return a pair, (first, second).")
    first, second = found
    case.judge("first", first, case.slips_of_first())
    case.judge("second", second, case.slips_of_second())
    if not case.deeper:
        raise Wrong("equal, but from_base was never called: second is the first VAE once more. Its decoder is g∘T.")
    plain = (case.plain_guide() - case.right).abs().mean()
    return (
        f"Largest difference over 40 draws: {(first - second).abs().max():.0e} nats. "
        f"With a plain guide in u, a draw would differ by {plain:.2f} nats on average."
    )


class _Case:
    """A flow off the identity, a decoder, and 40 draws of a guide, in double precision."""

    @torch.no_grad()
    def __init__(self) -> None:
        with seeded(0):
            lazy = MAF(transforms=2, hidden_features=(8,)).transform(3)
            for parameter in lazy.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
            decoder = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 5)).double().requires_grad_(False)
            self.x, self.noise = torch.randn(40, 5).double(), torch.randn(40, 3).double()
            self.loc, self.scale = torch.randn(40, 3).double(), (0.3 * torch.randn(40, 3).double()).exp()
        self.flow, self.decoder, self.deeper = lazy.double().requires_grad_(False)(), decoder, False
        self.z = self.loc + self.scale * self.noise
        self.u, self.log_det = self.to_base(self.z)
        self.fit, self.prior = self.log_likelihood(self.z), log_normal(self.u)
        self.q = log_normal(self.z, self.loc, self.scale)
        self.right = self.fit + self.prior + self.log_det - self.q

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.noise, self.loc, self.scale, self.to_base, self._from_base, self.log_likelihood

    def to_base(self, z: Tensor) -> tuple[Tensor, Tensor]:
        u, log_det = self.flow.call_and_ladj(z)
        return u, log_det

    def _from_base(self, u: Tensor) -> tuple[Tensor, Tensor]:
        self.deeper = True
        z, log_det = self.flow.inv.call_and_ladj(u)
        return z, log_det

    def log_likelihood(self, v: Tensor) -> Tensor:
        return Normal(self.decoder(v), 0.5).log_prob(self.x).sum(-1)

    def plain_guide(self) -> Tensor:
        """Compute the ELBO of the decoder g∘T with u ~ N(loc, scale²)."""
        return self.log_likelihood(self.flow.inv(self.z)) + log_normal(self.z) - self.q

    def judge(self, name: str, found: Tensor, slips: dict[str, Tensor]) -> None:
        if tuple(found.shape) != (40,):
            raise Wrong(f"{name}: the shape is {tuple(found.shape)} and should be (40,): one ELBO for each draw.")
        worst = (found.double() - self.right).abs().max()
        if worst < 1e-6:
            return
        for reason, value in (self._slips() | slips).items():
            if torch.allclose(found.double(), value):
                raise Wrong(f"{name}: {reason}")
        if worst < 1e-4:
            raise Wrong(f"{name}: off by {worst:.0e} nats: a part of it is in single precision.")
        raise Wrong(f"{name}: off by up to {worst:.2g} nats. Compare its three terms one by one.")

    def _slips(self) -> dict[str, Tensor]:
        fit, prior, log_det, q = self.fit, self.prior, self.log_det, self.q
        return {
            "this is the loss; the ELBO is minus that.": -self.right,
            "log q is missing: without it nothing keeps the guide from shrinking to a point.": fit + prior + log_det,
            "q is the density of z, not that of the noise: − Σ log σ belongs to it.": (
                fit + prior + log_det - log_normal(self.noise)
            ),
            "scale is a standard deviation; you used it as a variance in log q.": (
                fit + prior + log_det - log_normal(self.z, self.loc, self.scale.sqrt())
            ),
            "the log-determinant is added once per dimension; it belongs to the vector.": fit + prior + 3 * log_det - q,
            "the log-determinant of T⁻¹ is taken at u. T⁻¹ is applied at z.": fit + prior + self.to_base(self.u)[1] - q,
            "the log-determinant of T is taken at z. T acts on u.": (
                fit + prior - self.flow.inv.call_and_ladj(self.z)[1] - q
            ),
        }

    def slips_of_first(self) -> dict[str, Tensor]:
        fit, prior, log_det, q = self.fit, self.prior, self.log_det, self.q
        return {
            "the log-determinant is missing. The prior's density is not N(T⁻¹z) alone.": fit + prior - q,
            "the sign of the log-determinant: a density adds that of T⁻¹, ∂u/∂z.": fit + prior - log_det - q,
            "this is the log-determinant of T at z. T acts on u, and a density adds that of T⁻¹.": (
                fit + prior + self.flow.inv.call_and_ladj(self.z)[1] - q
            ),
            "the base density is taken at z; take it at u.": fit + log_normal(self.z) + log_det - q,
            "the decoder got u. In this VAE it is g, and gets z.": self.log_likelihood(self.u) + prior + log_det - q,
            "log q is taken at u; the Gaussian guide is a density of z.": (
                fit + prior + log_det - log_normal(self.u, self.loc, self.scale)
            ),
        }

    def slips_of_second(self) -> dict[str, Tensor]:
        fit, prior, log_det, q = self.fit, self.prior, self.log_det, self.q
        outward, outward_log_det = self.flow.inv.call_and_ladj(self.z)
        return {
            "the log-determinant is missing. Warping stretches the guide, so its density changes.": fit + prior - q,
            "the sign of the log-determinant: where T⁻¹ stretches, the warped guide gets thinner.": (
                fit + prior - log_det - q
            ),
            "the log-determinant is in it twice. The prior is N(0, I) here and has none.": fit
            + prior
            + 2 * log_det
            - q,
            "the decoder got u itself. The deeper decoder is g∘T.": self.log_likelihood(self.u) + prior + log_det - q,
            "log q is the Gaussian's at u. The warped guide has another density there.": (
                fit + prior - log_normal(self.u, self.loc, self.scale)
            ),
            "u was drawn from the Gaussian itself. That is a deeper decoder with a plain guide: another VAE.": (
                self.plain_guide()
            ),
            "the guide went the wrong way: its u is T⁻¹(z), not T(z).": fit + log_normal(outward) - outward_log_det - q,
        }


def log_normal(v: Tensor, mean: Tensor | float = 0.0, sd: Tensor | float = 1.0) -> Tensor:
    """Log-density of a Gaussian with independent dimensions, in nats, shape (...)."""
    return Normal(torch.zeros_like(v) + mean, sd).log_prob(v).sum(-1)
