"""Noise contrastive prior: a base distribution reweighted by a classifier."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Size, Tensor, nn
from torch.nn.functional import softplus
from zuko.lazy import LazyDistribution

from flowvae.core.errors import FlowvaeError, shown
from flowvae.core.parts import Cost, NetworkSpec, PriorSpec
from flowvae.flows.pyro_adapter import to_pyro
from flowvae.models.priors.checks import check_inner_prior
from flowvae.models.priors.reweighted import Reweighted, ReweightedSpec
from flowvae.models.priors.standard_normal import StandardNormal
from flowvae.networks import MLP, check_network, fold

__all__ = ["Contrastive", "ContrastivePrior"]


@dataclass(frozen=True)
class Contrastive(ReweightedSpec, name="contrastive"):
    r"""Noise contrastive prior (NCP): p(z) = r(z) p_0(z) / Z, with a base p_0 and the odds r of a classifier.

    The classifier D separates codes z ~ q̄ from draws of p_0; its odds are r = D / (1 − D) and its logit is log r. In a
    second stage it minimizes the cross-entropy: at the optimum r = q̄ / p_0, p = q̄ and Z = 1. A base with parameters,
    such as a flow, is fitted to the same codes by maximum likelihood in the same steps: the loss is the cross-entropy
    plus −log p_0(z), and neither term has a gradient for the other's parameters. With the first stage's N(0, I) as the
    base this is the paper's procedure.

    log Z = log E_{p_0}[r] is estimated by `constant_draws` draws of p_0 after every epoch. Its standard error is about
    1/√(effective draws). About a share e^{−R} of the draws is effective, where R is the Rényi divergence of order 2 of
    p from p_0 in nats; R is smaller with a flow as the base. The best epoch has the largest mean log p(z) of the
    validation codes, among the epochs with at least 100 effective draws.

    The paper's draws by resampling need 10 e^R or more proposals for each draw. The default uses fewer and corrects the
    draws by a Langevin chain. A density costs one pass of the classifier and a density of the base; a draw costs
    `proposals` draws of the base and, with Langevin chains, `steps` gradients of the density.

    Args:
        base: p_0, with a density and draws.
        classifier: network from z to the logit of D.

    Raises:
        FlowvaeError: for a base without a density or with its own loss, or settings out of range.

    References:
        Aneja, Schwing, Kautz & Vahdat (2021), "A Contrastive Learning Approach for Training Variational Autoencoder
        Priors".
    """

    title: ClassVar[str] = "a base reweighted by a classifier (NCP)"
    paper: ClassVar[str] = "Aneja et al. 2021"
    why_not_joint: ClassVar[str] = "a classifier learns the codes of a fixed encoder, and log p(z) needs its constant"

    base: PriorSpec = field(default_factory=StandardNormal)
    classifier: NetworkSpec = field(default_factory=MLP)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_inner_prior("Contrastive.base", self.base)
        if not self.base.tractable:
            raise FlowvaeError(
                f"Contrastive.base = {shown(self.base)}: its density is an integral; use another prior, such as "
                "StandardNormal() or MAF()."
            )
        if not isinstance(self.classifier, NetworkSpec):
            raise FlowvaeError(f"Contrastive.classifier = {shown(self.classifier)}: must be a network, such as MLP().")
        for name in ("proper", "shaped", "twice_differentiable"):
            object.__setattr__(self, name, getattr(self.base, name))

    def build(self, features: int, context: int = 0) -> LazyDistribution:
        base = self.base.build(features)
        if hasattr(base, "bind"):
            raise FlowvaeError(
                f"Contrastive.base = {shown(self.base)}: has a bind method, which is called for the prior of the whole "
                "model only; use another base."
            )
        size = features if isinstance(features, int) else math.prod(features)
        classifier = self.classifier.build(Size((size,)), Size((1,)))
        check_network("Contrastive.classifier", classifier, Size((size,)), Size((1,)))
        return ContrastivePrior(self, size, base, classifier)

    def cost(self, features: int) -> Cost:
        """Passes of the classifier and of the networks of the base."""
        base = self.base.cost(features)
        density, chain = base.density + 1, self.steps if self.draws == "langevin" else 0
        sample = self.proposals * (base.sample + 1) + 2 * chain * density  # a gradient costs as much as its value
        return Cost(density, sample, sample)


class ContrastivePrior(Reweighted):
    """A base distribution times the odds of a classifier, normalized by an estimated constant.

    Args:
        spec: settings of the draws and of the constant.
        features: D.
        base: p_0, without a context.
        classifier: the logit log r of codes (N, D), shape (N, 1).
    """

    def __init__(self, spec: ReweightedSpec, features: int, base: LazyDistribution, classifier: nn.Module) -> None:
        super().__init__(spec, features)
        self.base = base
        self.classifier = classifier

    def log_odds(self, z: Tensor) -> Tensor:
        """Compute log r(z) of codes (..., D), shape (...)."""
        return fold(self.classifier, z, 1).squeeze(-1)

    def objective(self, codes: Tensor) -> Tensor:
        """Compute the cross-entropy of codes (N, D) and as many draws of the base, plus −log p_0 if it is trained."""
        base = to_pyro(self.base())
        drawn = base.sample((len(codes),))
        loss = (softplus(-self.log_odds(codes)) + softplus(self.log_odds(drawn))).mean()
        if any(parameter.requires_grad for parameter in self.base.parameters()):
            loss = loss - base.log_prob(codes).mean()
        return loss

    def facts(self) -> dict[str, Any]:
        """Return the facts of the base, such as the error of an ODE, and those of every reweighted prior."""
        of_base: dict[str, Any] = getattr(self.base, "facts", dict)()
        return {**{f"base_{name}": value for name, value in of_base.items()}, **super().facts()}

    def log_unnormalized(self, z: Tensor) -> Tensor:
        return self.log_odds(z) + to_pyro(self.base()).log_prob(z)

    def propose(self, count: int) -> tuple[Tensor, Tensor]:
        z = to_pyro(self.base()).sample((count,))
        return z, self.log_odds(z)
