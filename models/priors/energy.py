"""Energy-based prior with a flow as its sampler."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Size, Tensor, nn
from torch.func import functional_call
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.parts import Cost, NetworkSpec
from flowvae.flows import FlowSpec, RealNVP
from flowvae.flows.pyro_adapter import PyroFlow
from flowvae.models.priors.reweighted import Reweighted, ReweightedSpec
from flowvae.networks import Lipschitz, check_network, fold

__all__ = ["Energy", "EnergyPrior"]

DEFENSIVE = 0.125  # weight of N(0, I) in the proposal


@dataclass(frozen=True)
class Energy(ReweightedSpec, name="energy"):
    r"""Energy-based prior (EVaLP): p(z) = exp(−E(z)) / Z, with a flow g as sampler.

    E(z) = f(z) − log N(z; 0, I) with a network f that grows linearly at most, so that Z is finite for all parameters.
    Since the entropy H(g) of a flow is known exactly,

        log Z = max_g E_g[−E] + H(g), attained at g = p,

    and maximum likelihood is the two-player game min_E E_q̄[E] − E_g[E], min_g E_g[E] − H(g). A step takes both
    gradients at once: the loss is the sum of the two, where the draws of g have no gradient in the first term, and the
    parameters of E none in the second. This loss does not measure quality; the best epoch has the largest mean log p(z)
    of the validation codes, among the epochs with at least 100 effective draws.

    log p(z) = −E(z) − log Z. log Z is estimated after every epoch by importance sampling from a mixture of g and, with
    a weight of 1/8, N(0, I), which covers modes that g has lost. The standard error is about 1/√(effective draws) nats.
    The paper draws from g itself, `draws: sampler`: this is fast, but the draws have the density of g, while log p(z)
    is the density of p; "sir" and "langevin" draw from p. A density costs one pass of f; a draw costs one draw of g
    or, from p, `proposals` of them.

    An f without a bound on its slope is unstable: where g has no draws, nothing keeps E from falling. The default is
    L-Lipschitz, which is also the paper's WGAN view: for f at its optimum, the first player computes
    max E_g[f] − E_q̄[f] = L W_1(g, q̄), the dual of the Wasserstein distance in z, and the second one minimizes
    L W_1(g, q̄) + KL(g‖N(0, I)). With other networks (`energy: mlp`) the game is maximum likelihood only. A smaller L
    is more stable and less flexible: log p(z) is at most L-Lipschitz relative to log N(z; 0, I).

    Args:
        energy: network from z to f(z).
        sampler: g, a flow with draws that are cheap and have a gradient.

    Raises:
        FlowvaeError: for a sampler whose draws have no gradient, or settings out of range.

    References:
        Dutta, Amballa, Xu, Wei & Roy Choudhury (2025), "Learning Energy-based Variational Latent Prior for VAEs".
    """

    title: ClassVar[str] = "an energy with a flow as sampler (EVaLP)"
    paper: ClassVar[str] = "Dutta et al. 2025"
    methods: ClassVar[tuple[str, ...]] = ("sir", "langevin", "sampler")
    why_not_joint: ClassVar[str] = "its two players learn the codes of a fixed encoder, and log p(z) needs its constant"

    draws: str = "sir"
    proposals: int = 32
    energy: NetworkSpec = field(default_factory=lambda: Lipschitz((64, 64), bound=3.0))
    sampler: FlowSpec = field(default_factory=lambda: RealNVP(transforms=4))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.energy, NetworkSpec):
            raise FlowvaeError(f"Energy.energy = {shown(self.energy)}: must be a network, such as Lipschitz().")
        if not isinstance(self.sampler, FlowSpec) or "posterior" not in self.sampler.roles:
            reason = getattr(self.sampler, "why_not", "") or "it is not a flow"
            raise FlowvaeError(
                f"Energy.sampler = {shown(self.sampler)}: cannot be a sampler: {reason}; use a flow such as RealNVP()."
            )
        object.__setattr__(self, "shaped", self.sampler.shaped)

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        sampler = self.sampler.build(features)
        size = features if isinstance(features, int) else math.prod(features)
        energy = self.energy.build(Size((size,)), Size((1,)))
        check_network("Energy.energy", energy, Size((size,)), Size((1,)))
        return EnergyPrior(self, size, energy, sampler)

    def cost(self, features: int) -> Cost:
        """Passes of f and of the networks of g."""
        draw = self.sampler.cost(features)
        sample = draw.sample if self.draws == "sampler" else self.proposals * (draw.sample_and_density + 1)
        return Cost(1, sample, sample)


class EnergyPrior(Reweighted):
    """Energy-based prior exp(−f(z)) N(z; 0, I) / Z, with a flow g in its proposal.

    Args:
        spec: settings of the draws and of the constant.
        features: D.
        energy: f of codes (N, D), shape (N, 1).
        sampler: g, without a context.
    """

    def __init__(self, spec: ReweightedSpec, features: int, energy: nn.Module, sampler: LazyDistribution) -> None:
        super().__init__(spec, features)
        self.energy = energy
        self.sampler = sampler

    def objective(self, codes: Tensor) -> Tensor:
        """Compute E_q̄[E] − E_g[E] for f plus E_g[E] − H(g) for g, from codes (N, D) and N draws, in nats per code."""
        z, log_g = PyroFlow(self.sampler()).rsample_and_log_prob((len(codes),))
        of_codes, of_draws = self.energy(torch.cat((codes, z.detach()))).squeeze(-1).chunk(2)
        fixed = {name: parameter.detach() for name, parameter in self.energy.named_parameters()}
        of_sampler = functional_call(self.energy, fixed, (z,)).squeeze(-1) - _log_normal(z) + log_g
        return (of_codes - of_draws + of_sampler).mean()

    def log_unnormalized(self, z: Tensor) -> Tensor:
        return _log_normal(z) - fold(self.energy, z, 1).squeeze(-1)

    @torch.no_grad()
    def propose(self, count: int) -> tuple[Tensor, Tensor]:
        """Draw from a mixture of g and, with a weight of 1/8, N(0, I), which covers modes that g has lost."""
        sampler = PyroFlow(self.sampler())
        wide = torch.rand(count, 1, device=self.log_z.device) < DEFENSIVE
        drawn = sampler.sample((count,))
        z = torch.where(wide, torch.randn_like(drawn), drawn)
        log_g = torch.logaddexp(sampler.log_prob(z) + math.log1p(-DEFENSIVE), _log_normal(z) + math.log(DEFENSIVE))
        return z, self.log_unnormalized(z) - log_g

    @torch.no_grad()
    def draw(self, count: int) -> Tensor:
        """Draw new, independent codes by the method of the settings, shape (count, D)."""
        return PyroFlow(self.sampler()).sample((count,)) if self.spec.draws == "sampler" else super().draw(count)


def _log_normal(z: Tensor) -> Tensor:
    """Compute log N(z; 0, I) in nats, shape (...)."""
    return -(z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi)) / 2
