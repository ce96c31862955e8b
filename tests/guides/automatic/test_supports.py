"""Every continuous distribution of torch and Pyro as a latent: right by its integral, or refused with what helps."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.distributions import transforms as T
from torch import Tensor

from flowvae.core.errors import FlowvaeError
from flowvae.evaluation import importance_sample
from flowvae.flows import Linear
from flowvae.guides import AutoFlow
from flowvae.guides.automatic.supports import bijection, support_of

ONE, ZERO = torch.ones(2), torch.zeros(2)
ONES3, EYE = torch.ones(3), torch.eye(2)


def step() -> Any:
    return dist.MultivariateNormal(torch.zeros(1), torch.eye(1))


def bivariate() -> Any:
    scalar = torch.ones(())
    return dist.SineBivariateVonMises(scalar, -scalar, scalar, scalar, weighted_correlation=0.5 * scalar)


class Own(dist.TorchDistribution):
    """The density exp(-energy) on a given support."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, support: Any, start: Tensor, energy: Any) -> None:
        self._support, self.start, self.energy = support, start, energy
        super().__init__((), start.shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self._support

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.start.expand(*sample_shape, *self.shape())

    def log_prob(self, value: Tensor) -> Tensor:
        return -self.energy(value)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Own:
        new = Own(self._support, self.start, self.energy)
        new._batch_shape = torch.Size(batch_shape)
        return new


ORDERED = torch.tensor([0.5, 1.0, 2.0])
LOG2, LOG6 = math.log(2), math.log(6)  # 6 = 3! orders of three
RIGHT = {
    "AVFMultivariateNormal": lambda: dist.AVFMultivariateNormal(ZERO, EYE, 0.1 * torch.ones(2, 2, 2)),
    "AffineBeta": lambda: dist.AffineBeta(2 * ONE, 3.0, -1.0, 4.0),
    "AsymmetricLaplace": lambda: dist.AsymmetricLaplace(ZERO, 1.0, 2.0),
    "Beta": lambda: dist.Beta(2 * ONE, 3.0),
    "Cauchy": lambda: dist.Cauchy(ZERO, 0.1),
    "Chi2": lambda: dist.Chi2(3 * ONE),
    "ContinuousBernoulli": lambda: dist.ContinuousBernoulli(0.3 * ONE),
    "Dirichlet": lambda: dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])),
    "Exponential": lambda: dist.Exponential(ONE),
    "FisherSnedecor": lambda: dist.FisherSnedecor(4 * ONE, 5.0),
    "FoldedDistribution": lambda: dist.FoldedDistribution(dist.StudentT(3 * ONE)),
    "Gamma": lambda: dist.Gamma(2 * ONE, 3.0),
    "GaussianHMM": lambda: dist.GaussianHMM(step(), torch.eye(1), step(), torch.eye(1), step(), duration=2),
    "GeneralizedPareto": lambda: dist.GeneralizedPareto(ONE, 1.0, 0.3),
    "Gumbel": lambda: dist.Gumbel(ONE, 0.7),
    "HalfCauchy": lambda: dist.HalfCauchy(ONE),
    "HalfNormal": lambda: dist.HalfNormal(ONE),
    "Independent": lambda: dist.Uniform(ZERO, 2.0).to_event(1),
    "InverseGamma": lambda: dist.InverseGamma(3 * ONE, 2.0),
    "Kumaraswamy": lambda: dist.Kumaraswamy(2 * ONE, 3.0),
    "LKJCholesky": lambda: dist.LKJCholesky(3, 2.0),
    "LKJCorrCholesky": lambda: dist.LKJCholesky(4, 1.0),
    "Laplace": lambda: dist.Laplace(ZERO, 1.0),
    "LogNormal": lambda: dist.LogNormal(ZERO, 1.0),
    "LogisticNormal": lambda: dist.LogisticNormal(ZERO, ONE),
    "Logistic": lambda: dist.Logistic(ZERO, 0.7),
    "LowRankMultivariateNormal": lambda: dist.LowRankMultivariateNormal(torch.zeros(3), torch.ones(3, 1), ONES3),
    "MaskedMixture": lambda: dist.MaskedMixture(
        torch.tensor([True, False]), dist.Normal(ZERO, 1.0), dist.Laplace(ZERO, 1.0)
    ),
    "MixtureOfDiagNormals": lambda: dist.MixtureOfDiagNormals(EYE, torch.ones(2, 2), ZERO),
    "MixtureOfDiagNormalsSharedCovariance": lambda: dist.MixtureOfDiagNormalsSharedCovariance(EYE, ONE, ZERO),
    "MixtureSameFamily": lambda: dist.MixtureSameFamily(
        dist.Categorical(ONES3), dist.Dirichlet(torch.tensor([[1.0, 2, 3], [4, 2, 1], [2, 2, 2]]))
    ),
    "MultivariateNormal": lambda: dist.MultivariateNormal(ZERO, EYE),
    "MultivariateStudentT": lambda: dist.MultivariateStudentT(torch.tensor(4.0), ZERO, EYE),
    "NanMaskedMultivariateNormal": lambda: dist.NanMaskedMultivariateNormal(ZERO, EYE),
    "NanMaskedNormal": lambda: dist.NanMaskedNormal(ZERO, 1.0),
    "Normal": lambda: dist.Normal(ZERO, 1.0),
    "OMTMultivariateNormal": lambda: dist.OMTMultivariateNormal(ZERO, EYE),
    "Pareto": lambda: dist.Pareto(ONE, 3.0),
    "RelaxedBernoulli": lambda: dist.RelaxedBernoulli(torch.ones(()), probs=0.3 * ONE),
    "RelaxedBernoulliStraightThrough": lambda: dist.RelaxedBernoulliStraightThrough(torch.ones(()), probs=0.3 * ONE),
    "RelaxedOneHotCategorical": lambda: dist.RelaxedOneHotCategorical(torch.ones(()), probs=ONES3 / 3),
    "RelaxedOneHotCategoricalStraightThrough": lambda: dist.RelaxedOneHotCategoricalStraightThrough(
        torch.ones(()), probs=ONES3 / 3
    ),
    "SineBivariateVonMises": bivariate,
    "SineSkewed": lambda: dist.SineSkewed(bivariate(), torch.tensor([0.2, 0.3])),
    "SkewLogistic": lambda: dist.SkewLogistic(ZERO, 0.7, 2.0),
    "SoftAsymmetricLaplace": lambda: dist.SoftAsymmetricLaplace(ZERO, 0.7, 1.5, 1.5),
    "SoftLaplace": lambda: dist.SoftLaplace(ZERO, 1.0),
    "StudentT": lambda: dist.StudentT(3 * ONE, ZERO, 0.5),
    "TransformedDistribution": lambda: dist.TransformedDistribution(
        dist.Normal(ZERO, 1.0).to_event(1), [T.AffineTransform(1.0, 0.5), T.StickBreakingTransform()]
    ),
    "Uniform": lambda: dist.Uniform(ZERO - 1, 3.0),
    "VonMises": lambda: dist.VonMises(ONE, 3.0),
    "Weibull": lambda: dist.Weibull(ONE, 2.0),
    # other supports, and wrappers
    "bounded Pareto": lambda: dist.GeneralizedPareto(ONE, 1.0, -0.3),
    "mixture of normals": lambda: dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2, 3)), dist.Normal(torch.tensor([[-1.0, 0, 2], [0, 1, 2]]), 1.0)
    ),
    "masked circle": lambda: dist.VonMises(torch.zeros(1), 1.0).expand([2]).mask(True).to_event(1),
    "ordered": lambda: Own(
        constraints.ordered_vector, ORDERED, lambda v: -dist.Normal(1.0, 1.0).log_prob(v).sum(-1) - LOG6
    ),
    "positive ordered": lambda: Own(
        constraints.positive_ordered_vector, ORDERED, lambda v: -dist.Gamma(2.0, 1.0).log_prob(v).sum(-1) - LOG6
    ),
    "softplus positive": lambda: Own(
        constraints.independent(constraints.softplus_positive, 1),
        ONE,
        lambda v: -dist.Gamma(2.0, 1.0).log_prob(v).sum(-1),
    ),
    "less than": lambda: Own(
        constraints.independent(constraints.less_than(2.0), 1),
        ONE,
        lambda v: -dist.Gamma(2.0, 1.0).log_prob(2 - v).sum(-1),
    ),
    "half open": lambda: Own(
        constraints.independent(constraints.half_open_interval(0.0, 2.0), 1), ONE, lambda v: 2 * LOG2 + 0 * v.sum(-1)
    ),
    "stack": lambda: Own(
        constraints.stack([constraints.positive, constraints.real], -1),
        ONE,
        lambda v: v[..., 0] - dist.Normal(0.0, 1.0).log_prob(v[..., 1]),
    ),
    "cat": lambda: Own(
        constraints.cat([constraints.positive, constraints.unit_interval], -1, [1, 1]), ONE / 2, lambda v: v[..., 0]
    ),
}

REFUSED = {
    "CoalescentTimes": (lambda: dist.CoalescentTimes(torch.tensor([0.0, 0.0, 0.3])), "deterministic"),
    "CoalescentTimesWithRate": (
        lambda: dist.CoalescentTimesWithRate(torch.tensor([0.0, 0.0, 0.3]), ONE),
        "deterministic",
    ),
    "Delta": (lambda: dist.Delta(ZERO), "deterministic"),
    "Empirical": (lambda: dist.Empirical(ZERO, ONE), "deterministic"),
    "GaussianScaleMixture": (lambda: dist.GaussianScaleMixture(ONE, ZERO, 0.5 * ONE), "deterministic"),
    "LKJ": (lambda: dist.LKJ(3, 1.0), "LKJCholesky"),
    "ProjectedNormal": (lambda: dist.ProjectedNormal(ONES3), r"v / \|v\|"),
    "VonMises3D": (lambda: dist.VonMises3D(ONES3), "factor"),
    "Wishart": (lambda: dist.Wishart(torch.tensor(4.0), EYE), "LKJCholesky"),
    "mixture of supports": (
        lambda: dist.MixtureSameFamily(dist.Categorical(ONE), dist.Uniform(ZERO, torch.tensor([1.0, 4.0]))),
        "common support",
    ),
    "masked mixture of supports": (
        lambda: dist.MaskedMixture(torch.tensor([True, False]), dist.Normal(ZERO, 1.0), dist.LogNormal(ZERO, 1.0)),
        "deterministic",
    ),
    "shifted": (
        lambda: dist.TransformedDistribution(dist.Exponential(ONE), [T.AffineTransform(2.0, 1.0)]),
        "Exponential",
    ),
    "scaled": (lambda: dist.TransformedDistribution(dist.Uniform(ZERO, ONE), [T.AffineTransform(2.0, 1.0)]), "Uniform"),
    "onto an interval": (
        lambda: dist.TransformedDistribution(
            dist.Normal(ZERO, 1.0), [T.ComposeTransform([T.SigmoidTransform(), T.AffineTransform(0.0, 3.0)])]
        ),
        "Normal",
    ),
    "Categorical": (lambda: dist.Categorical(ONES3), "Sum it out"),
    "OneHotCategorical": (lambda: dist.OneHotCategorical(ONES3), "Sum it out"),
    "Poisson": (lambda: dist.Poisson(ONE), "Sum it out"),
    "ZeroInflatedPoisson": (lambda: dist.ZeroInflatedPoisson(rate=ONE, gate=0.3 * ONE), "Sum it out"),
}
# bases, wrappers, discrete ones; sequences without a sampler, densities by quadrature, one that cannot be expanded
ELSEWHERE = {
    *("Distribution", "ExponentialFamily", "TorchDistribution", "ExpandedDistribution", "MaskedDistribution"),
    *("Rejector", "Unit", "ImproperUniform", "DiscreteHMM", "IndependentHMM", "LinearHMM", "GammaGaussianHMM"),
    *("GaussianMRF", "GroupedNormalNormal", "Stable", "StableWithLogProb", "TruncatedPolyaGamma", "Bernoulli"),
    *("Binomial", "BetaBinomial", "DirichletMultinomial", "ExtendedBetaBinomial", "ExtendedBinomial", "GammaPoisson"),
    *("Geometric", "LogNormalNegativeBinomial", "Multinomial", "NegativeBinomial", "OneHotCategoricalStraightThrough"),
    *("OneOneMatching", "OneTwoMatching", "OrderedLogistic", "SpanningTree", "ZeroInflatedDistribution"),
    "ZeroInflatedNegativeBinomial",
}


def guide_of(fn: Any, init_scale: float = 1.5) -> tuple[Any, AutoFlow]:
    def prior() -> None:
        pyro.sample("x", fn)

    guide = AutoFlow(prior, Linear(), init_scale=init_scale)
    return prior, guide


@pytest.mark.parametrize("name", RIGHT)
def test_the_prior_alone_has_log_evidence_zero(name: str) -> None:
    prior, guide = guide_of(RIGHT[name](), 1.0 if name == "positive ordered" else 1.5)
    guide()
    weighed = importance_sample(prior, guide)
    assert weighed.log_evidence.item() == pytest.approx(0, abs=4 * weighed.log_evidence_se.item() + 0.02)
    assert weighed.log_evidence_se < 0.1


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused_with_what_helps(name: str) -> None:
    make, remedy = REFUSED[name]
    with pytest.raises(FlowvaeError, match=rf"site 'x'.*{remedy}") as caught:
        guide_of(make())[1]()
    assert "\n" not in str(caught.value)


def test_no_distribution_is_forgotten() -> None:
    found = {
        name
        for module in (torch.distributions, dist)
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, torch.distributions.Distribution)
    }
    assert found <= {*RIGHT, *REFUSED, *ELSEWHERE}


def test_a_density_without_a_sampler_is_drawn_all_the_same() -> None:
    def model() -> None:
        x = pyro.sample("x", dist.ImproperUniform(constraints.positive, (), (2,)))
        pyro.factor("prior", dist.Gamma(2.0, 1.0).log_prob(x).sum(-1))

    guide = AutoFlow(model, Linear(), init_scale=1.5)
    guide()
    assert importance_sample(model, guide).log_evidence.item() == pytest.approx(0, abs=0.05)


def test_angles_are_drawn_where_pyro_draws_them() -> None:
    fn = dist.VonMises(ONE, 3.0)
    value = bijection("x", fn)(torch.linspace(-30, 30, 100).reshape(50, 2))
    assert value.min() >= -torch.pi
    assert value.max() <= torch.pi + 1e-6
    assert support_of(fn).check(fn.sample((1000,))).all()


def test_weights_count_an_angle_once_whatever_the_guide() -> None:
    prior, _ = guide_of(dist.VonMises(ONE, 3.0))

    def guide() -> None:
        pyro.sample("x", dist.Normal(ONE, 3.0))

    weighed = importance_sample(prior, guide)
    assert weighed.log_evidence.item() == pytest.approx(0, abs=4 * weighed.log_evidence_se.item())


@pytest.mark.parametrize(
    ("prior", "proposal"),
    [
        (dist.VonMises(2.0, 2.0), dist.Uniform(0.0, 2 * math.pi)),
        (dist.Uniform(0.0, 2 * math.pi), dist.VonMises(-1.0, 0.5)),
        (
            dist.VonMises(torch.tensor([2.0, 3.0]), 1.0).to_event(1),
            dist.Uniform(0.0, 2 * math.pi).expand([2]).to_event(1),
        ),
    ],
)
def test_weights_do_not_depend_on_where_a_turn_begins(prior: Any, proposal: Any) -> None:
    weighed = importance_sample(lambda: pyro.sample("x", prior), lambda: pyro.sample("x", proposal))
    assert weighed.log_evidence.item() == pytest.approx(0, abs=4 * weighed.log_evidence_se.item())
    assert support_of(prior).check(weighed.draws["x"]).all()


def test_observed_angles_may_have_any_range() -> None:
    def model() -> None:
        loc = pyro.sample("x", dist.Normal(ZERO, 1.0).to_event(1))
        pyro.sample("y", dist.VonMises(loc[..., 0], 1.0), obs=torch.tensor(4.0))

    guide = AutoFlow(model, Linear(), init_scale=1.0)
    guide()
    assert importance_sample(model, guide).log_evidence > -4
