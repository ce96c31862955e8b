"""The exact model: what variational inference must reproduce to rounding."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from flowvae import FlowvaeError
from flowvae.evaluation import measure_likelihoods
from flowvae.models import LinearGaussian

pytestmark = pytest.mark.usefixtures("float64")


def oracle() -> tuple[LinearGaussian, Tensor]:
    torch.manual_seed(2)
    model = LinearGaussian(torch.randn(7, 3), torch.randn(7), scale=0.6)
    with torch.no_grad():
        x = model(None, 25)
    return model, x


def exact_guide(model: LinearGaussian, shift: Tensor | None = None, mean_field: bool = False):  # type: ignore[no-untyped-def]
    def guide(x: Tensor, size: int | None = None) -> Tensor:
        posterior = model.mean_field(x) if mean_field else model.posterior(x)
        if shift is not None:
            posterior = pyro.distributions.MultivariateNormal(posterior.loc + shift, precision_matrix=model.precision())
        with pyro.plate("data", len(x)):
            return pyro.sample("z", posterior)

    return guide


def test_log_evidence_is_that_of_the_dense_gaussian() -> None:
    model, x = oracle()
    W, scale = model.weight, model.log_scale.exp()
    covariance = W @ W.T + scale**2 * torch.eye(7)
    expected = torch.distributions.MultivariateNormal(model.center, covariance).log_prob(x)
    torch.testing.assert_close(model.log_evidence(x), expected)


def test_exact_guide_gives_the_evidence_with_zero_variance() -> None:
    model, x = oracle()
    for seed in range(3):
        result = measure_likelihoods(model, exact_guide(model), x, draws=50, seed=seed)
        torch.testing.assert_close(result.log_evidence, model.log_evidence(x).detach())
        torch.testing.assert_close(result.elbo, model.log_evidence(x).detach())
        torch.testing.assert_close(result.effective_draws, torch.full((25,), 50.0))
        one = -Trace_ELBO().loss(model, exact_guide(model), x)
        assert one == pytest.approx(model.log_evidence(x).sum().item(), abs=1e-9)


def test_mean_field_gap_in_closed_form() -> None:
    model, x = oracle()
    result = measure_likelihoods(model, exact_guide(model, mean_field=True), x, draws=20_000, seed=0)
    gap = model.log_evidence(x) - result.elbo
    # each gap is a mean of 20 000 draws of standard deviation about 1
    torch.testing.assert_close(gap.mean(), model.mean_field_gap(), rtol=0, atol=0.01)
    torch.testing.assert_close(gap, model.mean_field_gap().expand(25), rtol=0, atol=0.06)


def test_a_shifted_mean_costs_half_its_mahalanobis_length() -> None:
    model, x = oracle()
    shift = torch.tensor([0.3, -0.2, 0.1])
    result = measure_likelihoods(model, exact_guide(model, shift), x, draws=20_000, seed=0)
    expected = 0.5 * shift @ model.precision() @ shift
    torch.testing.assert_close((model.log_evidence(x) - result.elbo).mean(), expected, rtol=0, atol=0.01)


def test_importance_sampling_with_a_poor_guide_finds_the_evidence() -> None:
    model, x = oracle()
    result = measure_likelihoods(model, exact_guide(model, mean_field=True), x, draws=20_000, seed=0)
    torch.testing.assert_close(result.log_evidence, model.log_evidence(x).detach(), rtol=0, atol=0.05)
    assert (result.effective_draws < 20_000).all()


def test_without_data_and_size_it_refuses() -> None:
    with pytest.raises(FlowvaeError, match="size"):
        oracle()[0]()
