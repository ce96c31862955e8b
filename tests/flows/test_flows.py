"""The contract of every flow family, against autograd, integrals and two-sample tests."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cache
from itertools import product

import pytest
import torch
from helpers import FAMILIES, disturb
from scipy.stats import ks_2samp
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from zuko.distributions import DiagNormal
from zuko.lazy import Flow, LazyTransform, UnconditionalDistribution

from flowvae.errors import FlowvaeError
from flowvae.flows import IAF, FlowSpec, Inverse
from flowvae.flows.nice import NICE
from flowvae.flows.spec import Cost, NetworkFlowSpec
from flowvae.seeds import seeded

NETWORKS = {
    name: flow
    for name, flow in FAMILIES.items()
    if isinstance(flow.flow if isinstance(flow, Inverse) else flow, NetworkFlowSpec)
}
families = pytest.mark.parametrize("flow", FAMILIES.values(), ids=FAMILIES.keys())


@families
@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.usefixtures("float64")
def test_starts_as_the_identity(flow: FlowSpec, context: int) -> None:
    transform = flow.transform(5, context)(torch.randn(7, context) if context else None)
    z = 3 * torch.randn(7, 5)
    u, log_det = transform.call_and_ladj(z)
    torch.testing.assert_close(u, z)
    torch.testing.assert_close(log_det, torch.zeros(7))


@families
@pytest.mark.usefixtures("float64")
def test_log_determinant_is_that_of_autograd(flow: FlowSpec) -> None:
    lazy = flow.transform(4, context=2)
    disturb(lazy, 0.5)
    context = torch.randn(2)
    transform = lazy(context)
    for z in 2 * torch.randn(5, 4):
        jacobian = torch.autograd.functional.jacobian(transform, z)
        _, log_det = transform.call_and_ladj(z)
        torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian)[1], rtol=1e-8, atol=1e-10)


@cache
def in_state(flow: FlowSpec, state: str) -> LazyTransform:
    """The family's transform over six dimensions at its start, disturbed, or fitted to curved data."""
    with seeded(0):
        lazy = flow.transform(6)
        if state == "disturbed":
            disturb(lazy, 0.1)
        if state == "trained":
            first = torch.randn(256, 3)
            data = torch.cat((first, first.sin() + 0.1 * torch.randn(256, 3)), -1)
            cost = flow.cost(6)
            slow = cost.density > cost.sample_and_density  # fitted in the direction that it evaluates directly
            optim = torch.optim.Adam(lazy.parameters(), lr=3e-3)
            for _ in range(60):
                optim.zero_grad()
                u, log_det = (lazy().inv if slow else lazy()).call_and_ladj(data)
                (0.5 * u.square().sum(-1) - log_det).mean().backward()
                torch.nn.utils.clip_grad_norm_(lazy.parameters(), 10.0)
                optim.step()
    return lazy


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("state", ["start", "disturbed", "trained"])
@pytest.mark.parametrize("reach", [0.1, 3.0, 12.0, 40.0])
def test_round_trip(flow: FlowSpec, reach: float, state: str, dtype: torch.dtype) -> None:
    """What comes back differs by rounding, times the condition of the map there.

    Each layer rounds, and the inverses of the layers before it stretch what it rounded: the bound is the product of
    the layers' conditions, in float64. A family that stretches space by 1e6 loses six digits, and float32 has seven.
    """
    lazy = copy.deepcopy(in_state(flow, state))
    truth, transform = lazy.double()(), copy.deepcopy(lazy).to(dtype)()
    codes = reach * torch.randn(10, 6, dtype=torch.float64)
    with torch.no_grad():
        back = transform.inv(transform(codes.to(dtype))).double()
    for z, again in zip(codes, back, strict=True):
        allowed = 50 * torch.finfo(dtype).eps * max(reach, 1.0)
        error = (again - z).abs().max().item()
        # the condition of the whole is never above the product, and is found in one go
        if error > allowed * max(condition(truth, z), 1e3):
            product_of_layers = 1.0
            for layer in truth.transforms:
                product_of_layers *= condition(layer, z)
                z = layer(z)
            assert error < allowed * product_of_layers


def condition(transform: Transform, z: Tensor) -> float:
    """Of the Jacobian at z, shape (D,)."""
    return float(torch.linalg.cond(torch.autograd.functional.jacobian(transform, z)))


@torch.no_grad()
def on_grid(distribution: Distribution, nodes: int = 501) -> tuple[Tensor, Tensor, float]:
    """A grid that holds the distribution, its density there, and the distance of the nodes."""
    reach = 1.2 * distribution.sample((5000,)).abs().max().item() + 1
    side = torch.linspace(-reach, reach, nodes)
    grid = torch.cartesian_prod(side, side)
    density = torch.cat([distribution.log_prob(part).double().exp() for part in grid.split(8192)])
    return grid, density, (side[1] - side[0]).item()


@families
def test_density_integrates_to_one(flow: FlowSpec) -> None:
    lazy = flow.build(2)
    disturb(lazy, 0.12)
    grid, density, cell = on_grid(lazy())
    assert math.isclose(density.sum().item() * cell**2, 1.0, abs_tol=2e-3)
    assert density[grid.abs().amax(-1) > 0.98 * grid.max()].max() < 1e-4 * density.max()


@families
def test_sampler_draws_from_the_density(flow: FlowSpec) -> None:
    """Draws, against draws from the density on a grid that never calls the sampler."""
    lazy = flow.build(2)
    disturb(lazy, 0.12)
    drawn = lazy().sample((4000,))
    grid, density, cell = on_grid(lazy())
    index = torch.multinomial(density, 4000, replacement=True)
    from_density = grid[index] + (torch.rand(4000, 2) - 0.5) * cell
    for direction in (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.7, 0.7])):
        p_value = ks_2samp((drawn @ direction).numpy(), (from_density @ direction).numpy()).pvalue
        assert p_value > 1e-3


@families
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_every_parameter_gets_a_finite_gradient(flow: FlowSpec, training: bool) -> None:
    # a base that is longer one way than the other: N(0, I) does not see a rotation
    base = UnconditionalDistribution(DiagNormal, torch.zeros(4), torch.tensor([0.5, 1.0, 1.5, 2.0]), buffer=True)
    lazy = Flow(flow.transform(4, context=2), base).train(training)
    disturb(lazy, 0.2)
    lazy(torch.randn(8, 2)).log_prob(torch.randn(8, 4)).sum().backward()
    _check_gradients(lazy)
    lazy.zero_grad(set_to_none=True)
    value, log_prob = lazy(torch.randn(8, 2)).rsample_and_log_prob()
    (value.square().sum() + log_prob.sum()).backward()
    _check_gradients(lazy)


def _check_gradients(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@families
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_context_of_any_batch_shape(flow: FlowSpec, shape: tuple[int, ...]) -> None:
    lazy = flow.build(4, context=2)
    disturb(lazy, 0.2)
    context = torch.randn(*shape, 2)
    distribution = lazy(context)
    assert distribution.sample((5,)).shape == (5, *shape, 4)
    z = torch.randn(*shape, 4)
    log_prob = distribution.log_prob(z)
    assert log_prob.shape == shape
    for index in product(*map(range, shape)):
        one = lazy(context[index]).log_prob(z[index])
        torch.testing.assert_close(log_prob[index], one)


@pytest.mark.parametrize("flow", NETWORKS.values(), ids=NETWORKS.keys())
@pytest.mark.parametrize("features", [2, 8])
def test_cost_is_the_number_of_network_passes(flow: FlowSpec, features: int) -> None:
    lazy = flow.build(features)
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    for module in lazy.modules():
        if isinstance(getattr(module, "hyper", None), nn.Sequential):
            module.hyper.register_forward_hook(count)

    def measured(call: Callable[[], object]) -> int:
        nonlocal passes
        passes = 0
        call()
        return passes

    distribution, z = lazy(), torch.randn(3, features)
    assert flow.cost(features) == Cost(
        density=measured(lambda: distribution.log_prob(z)),
        sample=measured(lambda: distribution.sample((3,))),
        sample_and_density=measured(lambda: distribution.rsample_and_log_prob((3,))),
    )


@families
def test_one_dimension_is_refused(flow: FlowSpec) -> None:
    with pytest.raises(FlowvaeError, match="latent = 1"):
        flow.transform(1)


@pytest.mark.usefixtures("float64")
def test_nice_couplings_preserve_volume() -> None:
    lazy = NICE().transform(6)
    disturb(lazy, 0.5)
    z = torch.randn(4, 6)
    _, log_det = lazy().call_and_ladj(z)
    scale: Tensor = lazy.transforms[-1].phi[0]
    # zuko bounds a log-scale s softly to s / (1 + |s / log 1000|)
    torch.testing.assert_close(log_det, (scale / (1 + (scale / math.log(1000)).abs())).sum().expand(4))


def test_an_inverse_is_not_turned_twice() -> None:
    with pytest.raises(FlowvaeError, match="turned round twice"):
        Inverse(Inverse(NICE()))
    with pytest.raises(FlowvaeError, match="it is MAF; use that"):
        Inverse(IAF())


@pytest.mark.parametrize("setting", [{"transforms": 0}, {"transforms": 2.5}, {"hidden_features": ()}])
def test_settings_out_of_range_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(FlowvaeError, match=next(iter(setting))):
        NICE(**setting)  # type: ignore[arg-type]
