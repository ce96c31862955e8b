"""Families without hyper-networks: their constraints, costs and gradients, against independent truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import EXACT, disturb
from torch import Tensor
from torch.overrides import TorchFunctionMode
from zuko.lazy import LazyComposedTransform

from flowvae.core.errors import EstimatedDensityWarning, FlowvaeError
from flowvae.flows import (
    MAF,
    ActNorm,
    Cost,
    FlowSpec,
    Householder,
    Inverse,
    Linear,
    Permutation,
    Planar,
    Radial,
    Residual,
    Sylvester,
    TarFlow,
    initialize_from_data,
)
from flowvae.flows.planar.planar import PlanarTransform
from flowvae.flows.planar.sylvester import SylvesterTransform, orthogonalize
from flowvae.flows.spec import NetworkFlowSpec
from flowvae.guides import FlowGuide

LAYERS = {
    name: flow
    for name, flow in EXACT.items()
    if not isinstance(flow.flow if isinstance(flow, Inverse) else flow, NetworkFlowSpec)
}
layers = pytest.mark.parametrize("flow", LAYERS.values(), ids=LAYERS.keys())


def jacobian(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(function, z)


# the operation that each family does once a pass, in both of its directions
UNIT = {
    Planar: ("tanh",),
    Sylvester: ("tanh",),
    Radial: ("vector_norm", "linalg_vector_norm"),
    Householder: ("sub", "rsub"),
    Linear: ("einsum", "linalg_solve_triangular"),
    TarFlow: ("gelu",),  # of a transformer of one layer
}


class Count(TorchFunctionMode):
    """Counts an operation by name; a product with a residual layer's Jacobian counts its columns."""

    def __init__(self, flow: FlowSpec) -> None:
        super().__init__()
        self.flow, self.passes = flow, 0.0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if isinstance(self.flow, Residual):
            weights = len(self.flow.hidden_features) + 1
            self.passes += (name == "linear") / weights
            if name in ("matmul", "__matmul__"):
                self.passes += args[1].shape[-1] / weights
        else:
            self.passes += name in UNIT[type(self.flow)]
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("flow", [f for f in LAYERS.values() if not isinstance(f, Inverse)], ids=repr)
@pytest.mark.parametrize("features", [2, 8])
def test_cost_counts_the_passes_of_a_layer(flow: FlowSpec, features: int) -> None:
    lazy = flow.transform(features)
    disturb(lazy, 0.3)
    transform, z = lazy(), torch.randn(100, features)

    def measured(call: Callable[[], object]) -> int:
        with Count(flow) as count:
            call()
        return round(count.passes)

    density = measured(lambda: transform.call_and_ladj(z))
    with torch.no_grad():
        sample = measured(lambda: transform.inv(z))
    both = measured(lambda: transform.inv.call_and_ladj(z))
    cost = flow.cost(features)
    if isinstance(flow, Planar | Sylvester):  # a root ends when it is found: cost says the most
        assert (cost.sample, cost.sample_and_density) == (sample, both)
        assert cost.density / 4 < density <= cost.density
    elif isinstance(flow, Residual):  # so does a fixed point, and its most is what the bound on g guarantees
        assert cost.density == density
        assert sample <= cost.sample
        assert both <= cost.sample_and_density
    elif isinstance(flow, Linear):  # a triangular factor is half a product
        assert (density, sample, both) == (1, 2, 2)
        assert cost == Cost(1, 1, 1)
    else:
        assert cost == Cost(density, sample, both)


@layers
@pytest.mark.usefixtures("float64")
def test_first_and_second_derivatives_of_both_directions(flow: FlowSpec) -> None:
    """Against finite differences, in the value and in the context, roots and fixed points included."""
    lazy = flow.transform(3, context=2)
    disturb(lazy, 0.4)
    z, c = torch.randn(2, 3, requires_grad=True), torch.randn(2, requires_grad=True)
    for direction in (lambda z, c: lazy(c).call_and_ladj(z), lambda z, c: lazy(c).inv.call_and_ladj(z)):
        assert torch.autograd.gradcheck(direction, (z, c))
        assert torch.autograd.gradgradcheck(direction, (z, c))


@layers
@pytest.mark.usefixtures("float64")
def test_parameters_of_any_size_leave_it_invertible(flow: FlowSpec) -> None:
    """No parameter, however large, makes a determinant vanish, or a log-determinant infinite."""
    for scale in (10.0, 1e3):
        lazy = flow.transform(4)
        disturb(lazy, scale)
        for direction in (lazy(), lazy().inv):
            value, log_det = direction.call_and_ladj(torch.randn(50, 4))
            assert torch.isfinite(value).all()
            assert torch.isfinite(log_det).all()


@pytest.mark.usefixtures("float64")
def test_planar_and_sylvester_layers_of_rank_one_are_the_same_map() -> None:
    w = torch.tensor([1.0, 0.0, 0.0])
    r, s, b = torch.tensor([0.7]), torch.tensor([-0.4]), torch.tensor([0.3])
    sylvester = SylvesterTransform(w.unsqueeze(-1), torch.zeros(1, 1), r, s, b)
    z = torch.randn(5, 3)
    scale = 1 - 1e-3
    expected = z + w * scale * torch.tanh(r) * torch.tanh(scale * torch.tanh(s) * z[:, :1] + b)
    torch.testing.assert_close(sylvester(z), expected)


@pytest.mark.usefixtures("float64")
def test_planar_determinant_is_positive_and_monotone_at_any_parameters() -> None:
    for scale in (1.0, 10.0, 1e3):
        layer = Planar(transforms=1).transform(3).transforms[0]
        disturb(layer, scale)
        planar = layer().inv
        assert ((planar.w * planar.u_hat).sum(-1) >= -1 - 1e-6).all()
        assert planar.gap > 0
        alpha = torch.linspace(-5, 5, 401).unsqueeze(-1) - planar.b
        line = alpha * planar.w / planar.w.square().sum()
        height = (planar(line) * planar.w).sum(-1)
        assert (height.diff() > 0).all()


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-20, 1e-12, 1e-8, 1e-7, 1e-6, 1e-3])
def test_planar_determinant_where_its_normal_vanishes(length: float) -> None:
    w = (length * torch.tensor([0.6, -0.8, 0.0])).requires_grad_()
    u, b = torch.tensor([0.5, 1.0, -2.0], requires_grad=True), torch.tensor(0.3, requires_grad=True)
    z = torch.randn(3)
    planar = PlanarTransform(w, u, b)
    value, log_det = planar.call_and_ladj(z)
    truth = torch.linalg.slogdet(jacobian(planar, z))[1]
    torch.testing.assert_close(log_det, truth, rtol=0, atol=1e-5)
    assert torch.isfinite(value).all()
    for gradient in torch.autograd.grad(value.sum() + log_det, (w, u, b)):
        assert torch.isfinite(gradient.norm())


@pytest.mark.usefixtures("float64")
def test_radial_moves_radii_only() -> None:
    layer = Radial(transforms=1).transform(3).transforms[0]
    disturb(layer, 1.0)
    radial = layer().inv
    z = torch.randn(20, 3)
    before, after = z - radial.center, radial(z) - radial.center
    torch.testing.assert_close(torch.cosine_similarity(before, after), torch.ones(20))
    torch.testing.assert_close(radial.inv(radial.center), radial.center)


@pytest.mark.usefixtures("float64")
def test_householder_is_a_rotation_and_leaves_the_standard_normal_alone() -> None:
    lazy = Householder(transforms=4).transform(5)
    disturb(lazy, 1e3)
    H = jacobian(lazy(), torch.randn(5))
    torch.testing.assert_close(H @ H.T, torch.eye(5))
    torch.testing.assert_close(torch.linalg.det(H), torch.tensor(1.0))
    flow = Householder().build(5)
    disturb(flow, 1.0)
    z = torch.randn(10, 5)
    torch.testing.assert_close(flow().log_prob(z), torch.distributions.Normal(0, 1).log_prob(z).sum(-1))


@pytest.mark.parametrize("kind", ["orthogonal", "householder", "triangular"])
@pytest.mark.usefixtures("float64")
def test_sylvester_constraints_hold_at_any_parameters(kind: str) -> None:
    for scale in (1.0, 1e3):
        lazy = Sylvester(kind, transforms=2).transform(5)
        disturb(lazy, scale)
        for layer in lazy.transforms:
            transform = layer().inv
            torch.testing.assert_close(transform.Q.mT @ transform.Q, torch.eye(5))
            assert (transform.r * transform.s > -1).all()
            assert torch.equal(transform.R, transform.R.triu())
            assert torch.equal(transform.S, transform.S.triu())


@pytest.mark.usefixtures("float64")
def test_sylvester_determinant_where_pyros_is_wrong() -> None:
    """The same R, R̃, Q, b as in Pyro's transform of that name, at unit scale."""
    import pyro.distributions.transforms as theirs

    worst = 0.0
    for _ in range(10):
        pyro_layer = theirs.Sylvester(5, count_transforms=4)
        with torch.no_grad():
            for parameter in pyro_layer.parameters():
                parameter.normal_()
            z = torch.randn(5)
            triangles = pyro_layer.R_dense.triu(1) + pyro_layer.S_dense.triu(1).T
            own = SylvesterTransform(pyro_layer.Q(z), triangles, pyro_layer.R_diag, pyro_layer.S_diag, pyro_layer.b)
        _, log_det = own.call_and_ladj(z)
        torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian(own, z))[1], rtol=0, atol=1e-12)
        told = pyro_layer.log_abs_det_jacobian(z, pyro_layer(z))
        worst = max(worst, (told - torch.linalg.slogdet(jacobian(pyro_layer._call, z))[1]).abs().item())
    assert worst > 0.1


def test_a_matrix_without_rank_is_refused_and_not_orthogonalized_in_part() -> None:
    with pytest.raises(FlowvaeError, match="kind='householder'"):
        orthogonalize(torch.ones(4, 2))


def test_sylvester_refuses_ranks_that_do_not_apply() -> None:
    with pytest.raises(FlowvaeError, match="its Q is square"):
        Sylvester("triangular", rank=2)
    with pytest.raises(FlowvaeError, match="Use 3 or less"):
        Sylvester(rank=4).transform(3)
    with pytest.raises(FlowvaeError, match="did you mean orthogonal"):
        Sylvester("orthogonl")


def test_what_restricts_a_flow_restricts_its_inverse_in_the_other_direction() -> None:
    assert Planar().roles == ("posterior",)
    assert Inverse(Planar()).roles == ("prior",)
    assert "Planar's densities" in Inverse(Planar()).why_not
    assert set(Inverse(MAF()).roles) == {"prior", "posterior"}
    assert Inverse(MAF()).why_not == ""
    with pytest.raises(FlowvaeError, match="is Householder; use that"):
        Inverse(Householder())
    with pytest.raises(FlowvaeError, match="must be even"):
        Householder(transforms=3)


@pytest.mark.usefixtures("float64")
def test_linear_prior_is_the_gaussian_of_its_matrix() -> None:
    for kind in ("lu", "plu"):
        lazy = Linear(kind).build(4)
        disturb(lazy, 0.5)
        flow = lazy()
        shift = flow.transform(torch.zeros(4))
        W = jacobian(flow.transform, torch.zeros(4))
        gaussian = torch.distributions.MultivariateNormal(-torch.linalg.solve(W, shift), precision_matrix=W.T @ W)
        z = torch.randn(10, 4)
        torch.testing.assert_close(flow.log_prob(z), gaussian.log_prob(z))


def test_a_permutation_is_saved_with_the_weights() -> None:
    lazy, other = Permutation().transform(20), Permutation().transform(20)
    z = torch.randn(3, 20)
    assert torch.equal(lazy()(z).sort().values, z.sort().values)
    assert torch.equal(lazy().inv(lazy()(z)), z)
    assert not torch.equal(lazy()(z), other()(z))
    other.load_state_dict(lazy.state_dict())
    assert torch.equal(lazy()(z), other()(z))
    assert lazy().call_and_ladj(z)[1].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.usefixtures("float64")
def test_actnorm_standardizes_a_batch_only_when_it_is_asked_to(context: int) -> None:
    lazy = ActNorm().transform(3, context)
    c = torch.randn(2) if context else None
    z = torch.tensor([5.0, 0.1, 100.0]) * torch.randn(64, 3) + 7
    assert torch.equal(lazy.train()(c)(z), z)
    lazy.start_from(z)
    u, log_det = lazy(c).call_and_ladj(z)
    torch.testing.assert_close(u.mean(0), torch.zeros(3))
    torch.testing.assert_close(u.std(0, correction=0), torch.ones(3))
    torch.testing.assert_close(log_det, -z.std(0, correction=0).log().sum().expand(64))
    with pytest.raises(FlowvaeError, match="dimensions \\[1\\]"):
        lazy.start_from(z * torch.tensor([1.0, 0.0, 1.0]))
    if not context:
        flow = LazyComposedTransform(ActNorm().transform(3), Permutation().transform(3), ActNorm().transform(3))
        torch.testing.assert_close(initialize_from_data(flow, z).mean(0), torch.zeros(3))


@pytest.mark.usefixtures("float64")
def test_residual_bound_holds_at_any_parameters() -> None:
    for scale in (0.1, 1.0, 1e3):
        lazy = Residual(transforms=1, hidden_features=(16, 16), lipschitz=0.9).transform(4, context=2)
        disturb(lazy, scale)
        transform = lazy(torch.randn(2)).transforms[0]
        assert all(torch.linalg.matrix_norm(W, 2) <= 0.9 ** (1 / 3) + 1e-12 for W in transform.weights)
        for z in torch.randn(50, 4):
            assert torch.linalg.matrix_norm(jacobian(transform, z) - torch.eye(4), 2) < 0.9


@pytest.mark.usefixtures("float64")
def test_residual_series_is_unbiased() -> None:
    """Mean over probes and cuts, against the exact determinant, in standard errors."""
    with pytest.warns(EstimatedDensityWarning):
        lazy = Residual(transforms=1, hidden_features=(16,), lipschitz=0.9, exact_up_to=0).transform(4)
    disturb(lazy, 1.0)
    transform = lazy().transforms[0]
    z = torch.randn(4)
    exact = torch.linalg.slogdet(jacobian(transform, z))[1]
    with torch.no_grad():
        # a cut is drawn once a call, so calls are the independent draws
        draws = torch.stack([transform.call_and_ladj(z.expand(4, 4))[1].mean() for _ in range(4000)])
    error = draws.std() / math.sqrt(len(draws))
    assert error < 0.05
    assert (draws.mean() - exact).abs() < 3 * error
    assert exact.abs() > 5 * error
    # and it is torch's generator that decides
    torch.manual_seed(5)
    one = transform.call_and_ladj(z)[1]
    torch.manual_seed(5)
    assert torch.equal(one, transform.call_and_ladj(z)[1])


@pytest.mark.parametrize("turned", [False, True], ids=["prior", "guide"])
def test_a_residual_flow_whose_density_is_an_estimate_says_so(turned: bool) -> None:
    flow = Residual(transforms=1, hidden_features=(8,), exact_up_to=3)
    build = FlowGuide(Inverse(flow)).build if turned else flow.build
    build(3, 8)  # up to there it is exact
    with pytest.warns(EstimatedDensityWarning, match=r"at 4 dimensions.*exact_up_to = 4 makes them exact"):
        build(4, 8)


def test_residual_says_what_to_do_where_its_inverse_does_not_converge() -> None:
    transform = Residual(transforms=1).transform(3)()
    with pytest.raises(FlowvaeError, match="Lower lipschitz"):
        transform.inv(torch.full((3,), float("nan")))
    with pytest.raises(FlowvaeError, match="must be below 1"):
        Residual(lipschitz=1.0)
