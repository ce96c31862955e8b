"""Exercises of notebook 5, second part: a flow prior from scratch, in a VAE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import Tensor, nn
from torch.distributions import Normal

from flowvae.core.seeds import seeded
from flowvae.course.exercise import Wrong, answered, exercise
from flowvae.course.flow_families import Network, coupling_network, generate, normalize
from flowvae.course.judging import look_for_slips, tensor_of

NOISE = 0.1  # standard deviation of x given z in the exercise of the VAE
STANDARD = Normal(0.0, 1.0)
Layers = Sequence[tuple[Tensor, Network]]


class CouplingPrior(dist.TorchDistribution):
    """log_prob goes through the layers from z to u and adds their log-determinants; rsample goes back from u to z."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (torch's own declaration)
    support = dist.constraints.real_vector
    has_rsample = True

    def __init__(self, layers: Layers, features: int) -> None:
        self.layers, self.features = layers, features
        super().__init__(batch_shape=torch.Size(), event_shape=torch.Size([features]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> dist.ExpandedDistribution:
        """Returns independent copies."""
        return dist.ExpandedDistribution(self, torch.Size(batch_shape))

    def log_prob(self, z: Tensor) -> Tensor:
        """Returns log p(z) in nats, shape (...)."""
        total = torch.zeros(z.shape[:-1], dtype=z.dtype)
        for mask, network in self.layers:
            z, log_det = normalize(z, mask, network)
            total = total + log_det
        return STANDARD.log_prob(z).sum(-1) + total

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with a gradient, shape (*sample_shape, D)."""
        z = torch.randn(*sample_shape, self.features, dtype=self.layers[0][0].dtype)
        for mask, network in reversed(self.layers):
            z = generate(z, mask, network)
        return z


@exercise(
    CouplingPrior,
    hints=(
        "log_prob: go through the layers in their order, z → u, and add the log-determinants.",
        "rsample: draw u ~ N(0, I) and go through the layers in the opposite order, with generate.",
        "torch.randn(*sample_shape, D, dtype=mask.dtype) draws u with the right shape and type.",
    ),
)
def prior(answer: Callable[[Layers, int], Any]) -> str:
    """Judges a distribution class made of coupling layers: log_prob and rsample must belong together."""
    masks = torch.eye(2, dtype=torch.float64)
    layers = [(masks[number % 2], coupling_network(2, seed=number)) for number in range(3)]
    flow = answered(answer(layers, 2))
    z = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = tensor_of(flow.log_prob(z), (50,), "one density for each vector")
    mass = _judge_density(flow, found, z, layers)
    _judge_draws(flow, layers)

    def model() -> None:
        with pyro.plate("data", 7):
            pyro.sample("z", flow)

    trace = poutine.trace(model).get_trace()
    trace.compute_log_prob()
    if tuple(trace.nodes["z"]["log_prob"].shape) != (7,):
        raise Wrong("in a plate of 7, Pyro finds a log_prob of another shape than (7,).")
    return f"It integrates to {mass:.4f}, its draws match its density, and it works as a site in Pyro."


CELL = 0.0625
AXIS = torch.arange(-8 + CELL / 2, 8, CELL, dtype=torch.float64)  # centres of cells, none of them at 0


def _judge_density(flow: Any, found: Tensor, z: Tensor, layers: Layers) -> float:
    u, terms = z, []
    for mask, network in layers:
        u, log_det = normalize(u, mask, network)
        terms.append(log_det)
    base, total = STANDARD.log_prob(u).sum(-1), torch.stack(terms).sum(0)
    with torch.no_grad():
        mass = flow.log_prob(torch.cartesian_prod(AXIS, AXIS)).exp().sum().item() * CELL**2
    slips = {
        "the log-determinants are missing.": base,
        "the log-determinants are subtracted; they are of the normalizing direction: add them.": base - total,
        "only the last layer's log-determinant is in it.": base + terms[-1],
        "the log-determinants are counted once per dimension.": base + 2 * total,
        "the base density is taken at z; take it at u, after all layers.": STANDARD.log_prob(z).sum(-1) + total,
    }
    explained = {f"log_prob: {reason} It integrates to {mass:.3f}.": value for reason, value in slips.items()}
    look_for_slips(found, base + total, explained, unit="nats")
    return mass


def _judge_draws(flow: Any, layers: Layers) -> None:
    with seeded(0):
        draws = flow.rsample((10_000,))
    if draws is None:
        raise Wrong("log_prob is right. Now rsample.")
    if tuple(draws.shape) != (10_000, 2):
        raise Wrong(f"rsample((10000,)) has shape {tuple(draws.shape)} and should have (10000, 2).")
    if draws.dtype != torch.float64:
        raise Wrong(f"the draws are {draws.dtype} and the layers float64: draw u in the type of the masks.")
    if not draws.requires_grad:
        raise Wrong("rsample must carry a gradient: no torch.no_grad(), no detach().")
    back = draws.detach()
    with torch.no_grad():
        for mask, network in layers:
            back, _ = normalize(back, mask, network)
        weight = flow.log_prob(torch.cartesian_prod(AXIS, AXIS)).exp() * CELL**2
    if (back.mean(0).abs() > 0.05).any() or ((back.T.cov() - torch.eye(2)).abs() > 0.06).any():
        raise Wrong(
            "draws, mapped back to the base, are not N(0, I). Did rsample undo the last layer first, with generate?"
        )
    digits = torch.tensor([2.0, 1.0], dtype=torch.float64)
    cells, drawn = (
        ((points > 0).double() @ digits).long() for points in (torch.cartesian_prod(AXIS, AXIS), draws.detach())
    )
    apart = (torch.bincount(cells, weight, 4) - torch.bincount(drawn, minlength=4) / len(draws)).abs().max().item()
    if apart > 0.02:
        raise Wrong(f"the draws are not from this density: one quadrant has {apart:.1%} more or less of them.")


class LearnedPrior(nn.Module):
    """Four coupling layers as a two-dimensional prior, initialized as N(0, I)."""

    def __init__(self) -> None:
        super().__init__()
        bodies = [coupling_network(2, seed=number).float() for number in range(4)]
        for body in bodies:
            nn.init.zeros_(body.last.weight)
            nn.init.zeros_(body.last.bias)
        self.networks = nn.ModuleList(bodies)

    def forward(self) -> CouplingPrior:
        """Returns p(z)."""
        keep = torch.eye(2)
        return CouplingPrior([(keep[number % 2], body) for number, body in enumerate(self.networks)], 2)


def vae_model(x: Tensor, prior: nn.Module, decoder: nn.Module) -> None:
    """The prior is registered like the decoder: it has weights, and SVI trains those in the parameter store."""
    pyro.module("decoder", decoder)
    pyro.module("prior", prior)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", prior())
        pyro.sample("x", dist.Normal(decoder(z), NOISE).to_event(1), obs=x)


@exercise(
    vae_model,
    hints=(
        "Start from the model of notebook 3, section 2. Two things change: the prior and the likelihood.",
        "z comes from prior(), and pyro.module registers its weights.",
    ),
)
def vae(answer: Callable[[Tensor, nn.Module, nn.Module], None]) -> str:
    """Judges the Pyro model of a VAE with a learned prior: (x, prior, decoder) → sites z and x in a plate."""
    learned, decoder = LearnedPrior(), nn.Linear(2, 16)
    with seeded(0):
        x = torch.randn(7, 16)
        with torch.no_grad():
            for parameter in learned.parameters():  # off the identity, so that it differs from N(0, I)
                parameter.add_(0.3 * torch.randn_like(parameter))
    with pyro.get_param_store().scope():
        _judge_sites(poutine.trace(answer).get_trace(x, learned, decoder), x, learned, decoder)
    with pyro.get_param_store().scope():
        before = [parameter.detach().clone() for parameter in learned.parameters()]
        SVI(answer, _guide, Adam({"lr": 1e-2}), loss=Trace_ELBO()).step(x, learned, decoder)
    if all(torch.equal(old, new) for old, new in zip(before, learned.parameters(), strict=True)):
        raise Wrong("a step of SVI does not change the prior. Does a gradient reach it, without detach()?")
    return "A step of SVI trains decoder and prior together."


def _guide(x: Tensor, prior: nn.Module, decoder: nn.Module) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))


def _judge_sites(trace: Any, x: Tensor, learned: LearnedPrior, decoder: nn.Module) -> None:
    sites = {name: node for name, node in trace.nodes.items() if node["type"] == "sample"}
    answered(sites or None)
    for name in ("z", "x"):
        if name not in sites:
            raise Wrong(f"there is no site {name!r}, only {sorted(sites)}.")
    if not sites["x"]["is_observed"]:
        raise Wrong("x is drawn, not observed: give pyro.sample obs=x. Without data there is nothing to learn.")
    z, given = sites["z"]["value"], sites["x"]["fn"]
    if tuple(z.shape) != (7, 2):
        raise Wrong(f"z has shape {tuple(z.shape)} and should have (7, 2): draw it inside the plate.")
    if tuple(given.event_shape) != (16,):
        raise Wrong("the 16 numbers of a data point are one draw: declare them with to_event(1).")
    trace.compute_log_prob()
    with torch.no_grad():
        right, likelihood = learned().log_prob(z), dist.Normal(decoder(z), NOISE).to_event(1).log_prob(x)
        if torch.allclose(sites["z"]["log_prob"], STANDARD.log_prob(z).sum(-1)):
            raise Wrong("z still comes from N(0, I); it has to come from prior().")
        if not torch.allclose(sites["z"]["log_prob"], right, atol=1e-4):
            raise Wrong("the site z is not scored by the log_prob of prior().")
        if not torch.allclose(sites["x"]["log_prob"], likelihood, rtol=1e-3):
            raise Wrong("log p(x | z) is not that of Normal(decoder(z), NOISE); NOISE is a standard deviation.")
        if not torch.allclose(trace.log_prob_sum(), (right + likelihood).sum(), rtol=1e-3):
            raise Wrong("there is a third term in the model: the prior's log_prob has all log-determinants in it.")
    stored = {node["value"].data_ptr() for node in trace.nodes.values() if node["type"] == "param"}
    for name, part in (("prior", learned), ("decoder", decoder)):
        if not all(parameter.data_ptr() in stored for parameter in part.parameters()):
            raise Wrong(f"the weights of {name} are not registered, so SVI would not train them: use pyro.module.")
