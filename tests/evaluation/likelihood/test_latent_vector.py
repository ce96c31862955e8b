"""All latent sites as one vector, and the distributions of a guide and a prior over it."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from linear_pairs import TwoLevels
from torch import Tensor

from flowvae import FlowvaeError
from flowvae.data import Batch
from flowvae.evaluation import AnnealedHMC, measure_ais
from flowvae.evaluation.likelihood.latent_vector import LatentDistribution, LatentVector
from flowvae.inference.log_density import sample_latents

pytestmark = pytest.mark.usefixtures("float64")


def test_join_and_split_are_inverse() -> None:
    vector = LatentVector({"a": torch.Size((2, 3)), "b": torch.Size(()), "c": torch.Size((4,))})
    z = torch.randn(5, 7, 11)
    values = vector.split(z)
    assert {name: value.shape for name, value in values.items()} == {"a": (5, 7, 2, 3), "b": (5, 7), "c": (5, 7, 4)}
    assert torch.equal(vector.join(values), z)
    assert torch.equal(LatentVector({"a": torch.Size((11,))}).split(z)["a"], z)


def test_a_hierarchical_guide_scores_foreign_vectors() -> None:
    """The exact posterior: log q(z | x) = log p(x, z) − log p(x) at any z, not only at the guide's own draws."""
    pair = TwoLevels()
    batch = Batch(pair.data(4))
    values = sample_latents(pair.guide, batch, 1)
    vector = LatentVector.of(pair.model, batch, values)
    assert dict(vector.shapes) == {"top": (2,), "below": (3,)}
    q = LatentDistribution(pair.guide, batch, vector, values)
    z = 2 * torch.randn(6, 4, 5)
    top, below = z.split((2, 3), dim=-1)
    log_prior = dist.Normal(0.0, 1.0).log_prob(top).sum(-1) + dist.Normal(top @ pair.a.T, pair.s).log_prob(below).sum(
        -1
    )
    log_likelihood = dist.Normal(below @ pair.w.T, pair.noise).log_prob(batch.x).sum(-1)
    torch.testing.assert_close(q.log_prob(z), log_prior + log_likelihood - pair.log_evidence(batch.x))
    prior = LatentDistribution(pair.model, batch, vector, values)
    torch.testing.assert_close(prior.log_prob(z), log_prior)
    drawn = prior.sample((5000,))
    expected = torch.cat((torch.cat((torch.eye(2), pair.a.T), 1), torch.cat((pair.a, pair.covariance), 1)))
    torch.testing.assert_close(torch.cov(drawn.flatten(0, 1).T), expected, rtol=0.1, atol=0.1)


def positive(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("rate", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def counts(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("count", dist.Poisson(torch.ones(2)).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("model", [positive, counts])
def test_a_site_that_is_not_on_all_of_space_is_refused(model: object) -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample(name, dist.LogNormal(torch.zeros(2), 1.0).to_event(1))

    name = "rate" if model is positive else "count"
    with pytest.raises(FlowvaeError, match=rf"'{name}'.*(GreaterThan|Integer)"):
        measure_ais(model, guide, torch.ones(3, 2), AnnealedHMC(2, 2))  # type: ignore[arg-type]


def test_a_guide_on_a_part_of_space_can_be_no_start() -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    x = torch.ones(3, 2)
    truth = dist.Normal(0.0, 2**0.5).log_prob(x).sum(-1)
    result = measure_ais(model, guide, x, AnnealedHMC(16, 60))  # whose moments are all that the start needs
    assert ((result.log_evidence - truth).abs() < 3 * result.standard_error).all()
    with pytest.raises(FlowvaeError, match=r"'z' of the guide.*GreaterThan"):
        measure_ais(model, guide, x, AnnealedHMC(2, 2, start="guide"))


def test_a_model_without_latent_sites_needs_no_chains() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), obs=x)

    with pytest.raises(FlowvaeError, match="no latent site"):
        measure_ais(model, lambda x: None, torch.ones(3, 2), AnnealedHMC(2, 2))
