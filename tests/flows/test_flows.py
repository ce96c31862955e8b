"""The contract of every flow family, against autograd, integrals and two-sample tests."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from functools import cache
from itertools import product

import pytest
import torch
from helpers import EXACT, FAMILIES, disturb
from scipy.stats import ks_2samp
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from zuko.distributions import DiagNormal
from zuko.lazy import Flow, LazyTransform, UnconditionalDistribution

from flowvae.core import registry
from flowvae.core.errors import FlowvaeError
from flowvae.core.parts import Cost
from flowvae.core.seeds import seeded
from flowvae.experiments.experiment import Experiment
from flowvae.flows import BPF, CNF, IAF, FlowSpec, Inverse
from flowvae.flows.coupling.nice import NICE
from flowvae.flows.spec import NetworkFlowSpec
from flowvae.guides import FlowGuide


def inner(flow: FlowSpec) -> FlowSpec:
    return flow.flow if isinstance(flow, Inverse) else flow


NETWORKS = {name: flow for name, flow in FAMILIES.items() if isinstance(inner(flow), NetworkFlowSpec)}


def over(flows: dict[str, FlowSpec]) -> pytest.MarkDecorator:
    """A test over families, by their names."""
    return pytest.mark.parametrize("flow", flows.values(), ids=flows.keys())


families = over(FAMILIES)
proper = over({name: flow for name, flow in FAMILIES.items() if flow.proper})


def tolerance(flow: FlowSpec) -> dict[str, float]:
    """A CNF's solver has a tolerance of its own, and chooses its steps for the whole batch."""
    return {"rtol": 5e-3, "atol": 5e-3} if isinstance(inner(flow), CNF) else {}


@over({name: flow for name, flow in FAMILIES.items() if flow.starts_as_identity})
@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.usefixtures("float64")
def test_starts_as_the_identity(flow: FlowSpec, context: int) -> None:
    transform = flow.transform(5, context)(torch.randn(7, context) if context else None)
    z = 3 * torch.randn(7, 5)
    u, log_det = transform.call_and_ladj(z)
    # beyond ±5 zuko continues a Bernstein polynomial by a line that is 1e-5 off
    torch.testing.assert_close(u, z, rtol=0, atol=3e-5 if isinstance(inner(flow), BPF) else 1e-10)
    torch.testing.assert_close(log_det, torch.zeros(7))


@families
@pytest.mark.usefixtures("float64")
def test_log_determinant_is_that_of_autograd(flow: FlowSpec) -> None:
    lazy = flow.transform(4, context=2)
    disturb(lazy, 0.3 if tolerance(flow) else 0.5)  # the error of a solver grows with what it solves
    context = torch.randn(2)
    transform = lazy(context)
    for z in 2 * torch.randn(5, 4):
        jacobian = torch.autograd.functional.jacobian(transform, z)
        _, log_det = transform.call_and_ladj(z)
        truth = torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(log_det, truth, **(tolerance(flow) or {"rtol": 1e-8, "atol": 1e-10}))


SOLVED = 1e-4  # a bisection ends at 1e-6, in each transform; a CNF's steps err by about as much


@cache
def in_state(flow: FlowSpec, state: str) -> LazyTransform:
    """The family's transform over six dimensions at its start, disturbed (little or much), or fitted to curved data."""
    with seeded(0):
        lazy = flow.transform(6)
        if state in ("disturbed", "large"):
            disturb(lazy, 0.1 if state == "disturbed" else 0.3)
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


@over(EXACT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("state", ["start", "disturbed", "large", "trained"])
@pytest.mark.parametrize("reach", [0.1, 3.0, 12.0, 40.0])
def test_round_trip(flow: FlowSpec, reach: float, state: str, dtype: torch.dtype) -> None:
    """What comes back differs by rounding, times the condition of the map there.

    Each layer rounds, and the inverses of the layers before it stretch what it rounded: the bound is the product of
    the layers' conditions, in float64. A family that stretches space by 1e6 loses six digits, and float32 has seven.
    """
    lazy = copy.deepcopy(in_state(flow, state))
    truth, transform = lazy.double()(), copy.deepcopy(lazy).to(dtype)()
    z = reach * torch.randn(10, 6, dtype=torch.float64)
    with torch.no_grad():
        error = (transform.inv(transform(z.to(dtype))).double() - z).abs().amax(-1)
    allowed = 50 * torch.finfo(dtype).eps * max(reach, 1.0)
    # the condition of the whole is never above the product, and is found in one go
    close = error <= allowed * 1e3
    if not close.all():
        close |= error <= allowed * condition(truth, z)
    if not close.all():
        product_of_layers = torch.ones(10, dtype=torch.float64)
        for layer in truth.transforms:
            product_of_layers *= condition(layer, z)
            z = layer(z)
        assert (close | (error < allowed * product_of_layers)).all()


def condition(transform: Transform, z: Tensor) -> Tensor:
    """Of the Jacobian at each z, shape (N, D) → (N,)."""
    z = z.detach().requires_grad_()
    u = transform(z)
    rows = [torch.autograd.grad(u[:, i].sum(), z, retain_graph=True)[0] for i in range(u.shape[-1])]
    return torch.linalg.cond(torch.stack(rows, 1))


@over({name: flow for name, flow in FAMILIES.items() if name not in EXACT})
@pytest.mark.parametrize("state", ["start", "disturbed"])
@pytest.mark.parametrize("reach", [0.1, 2.0])
@pytest.mark.usefixtures("float64")
def test_round_trip_to_the_tolerance_of_a_solver(flow: FlowSpec, reach: float, state: str) -> None:
    """Within the box of those that have one; beyond it, test_labels says what comes back."""
    transform = copy.deepcopy(in_state(flow, state)).double()()
    z = reach * torch.randn(10, 6)
    with torch.no_grad():
        error = (transform.inv(transform(z)) - z).abs().amax(-1)
    assert (error < SOLVED * condition(transform, z)).all()


@torch.no_grad()
def on_grid(distribution: Distribution, nodes: int) -> tuple[Tensor, Tensor, float]:
    """A grid that holds the distribution, its density there, and the distance of the nodes."""
    reach = 1.2 * distribution.sample((5000,)).abs().max().item() + 1
    side = torch.linspace(-reach, reach, nodes)
    grid = torch.cartesian_prod(side, side)
    density = torch.cat([distribution.log_prob(part).double().exp() for part in grid.split(8192)])
    return grid, density, (side[1] - side[0]).item()


def nodes_for(flow: FlowSpec) -> int:
    """Splines have kinks, which take a fine grid; solvers are slow, and what they solve is smooth."""
    return 501 if flow in EXACT.values() else 101


@proper
def test_density_integrates_to_one(flow: FlowSpec) -> None:
    lazy = flow.build(2)
    disturb(lazy, 0.12)
    grid, density, cell = on_grid(lazy(), nodes_for(flow))
    assert math.isclose(density.sum().item() * cell**2, 1.0, abs_tol=2e-3)
    assert density[grid.abs().amax(-1) > 0.98 * grid.max()].max() < 1e-4 * density.max()


@proper
def test_sampler_draws_from_the_density(flow: FlowSpec) -> None:
    """Draws, against draws from the density on a grid that never calls the sampler."""
    lazy = flow.build(2)
    disturb(lazy, 0.12)
    drawn = lazy().sample((4000,))
    grid, density, cell = on_grid(lazy(), nodes_for(flow))
    index = torch.multinomial(density, 4000, replacement=True)
    from_density = grid[index] + (torch.rand(4000, 2) - 0.5) * cell
    for direction in (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.7, 0.7])):
        p_value = ks_2samp((drawn @ direction).numpy(), (from_density @ direction).numpy()).pvalue
        assert p_value > 1e-3


@proper
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
@pytest.mark.usefixtures("float64")
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
        torch.testing.assert_close(log_prob[index], one, **tolerance(flow))


@families
def test_it_pickles_and_its_state_is_all_of_it(flow: FlowSpec) -> None:
    lazy = flow.transform(4, context=2)
    disturb(lazy, 0.3)
    other = flow.transform(4, context=2)
    other.load_state_dict(lazy.state_dict())
    z, c = torch.randn(5, 4), torch.randn(2)
    for again in (other, pickle.loads(pickle.dumps(lazy))):
        assert torch.equal(again(c)(z), lazy(c)(z))


@over(NETWORKS)
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
    with pytest.raises(FlowvaeError, match="the flow itself"):
        Inverse(Inverse(NICE()))
    with pytest.raises(FlowvaeError, match="is MAF; use that"):
        Inverse(IAF())


@over({name: flow for name, flow in FAMILIES.items() if not flow.proper})
def test_what_is_no_bijection_of_all_codes_is_not_turned(flow: FlowSpec) -> None:
    with pytest.raises(FlowvaeError, match=r"not a bijection of all of R\^D.*Use one that is normalized"):
        Inverse(flow)


@pytest.mark.parametrize("role", ["prior", "guide"])
@pytest.mark.parametrize("turned", [False, True], ids=["as it is", "turned"])
@over({name: family.default for name, family in registry.families("flow").items() if not family.default.wraps})
def test_what_is_accepted_can_be_written_and_read(flow: FlowSpec, turned: bool, role: str) -> None:
    """A run whose file does not lead back to its experiment can never be opened."""
    try:
        flow = Inverse(flow) if turned else flow
        experiment = (
            Experiment(latent=3, prior=flow) if role == "prior" else Experiment(latent=3, guide=FlowGuide(flow))
        )
    except FlowvaeError as error:
        refused = ("cannot be a prior", "cannot be a posterior", "cannot be inverted", "use that", "acts on images")
        assert any(words in str(error) for words in refused)  # noqa: PT017
    else:
        assert Experiment.from_dict(json.loads(json.dumps(experiment.to_dict()))) == experiment


@pytest.mark.parametrize("setting", [{"transforms": 0}, {"transforms": 2.5}, {"hidden_features": ()}])
def test_settings_out_of_range_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(FlowvaeError, match=next(iter(setting))):
        NICE(**setting)  # type: ignore[arg-type]
