"""Encoders of plates: what they are given, what the guide takes from the model, and mistakes."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoGuideList, init_to_value
from torch import Tensor, nn

from flowvae import MLP, FlowvaeError
from flowvae.flows import IAF, MAF
from flowvae.guides import AutoFlow, Gaussian, SemiAmortized
from flowvae.inference import GuideSettings, fit_autoguide
from flowvae.networks import Wrap

FLOW = IAF(2, (8,))


def model(x: Tensor, size: int | None = None, total: int | None = None) -> None:
    """Global weights, and a local pair for each row of x."""
    weight = pyro.sample("weight", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", total or len(x), subsample_size=size) as index:
        batch = x if total else x[index]
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(weight * z, 1.0).to_event(1), obs=batch)


class Seen(nn.Module):
    """A network that keeps what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(2, 3), []

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.seen.append((x, args, kwargs))
        return self.layer(x)


def test_a_module_is_called_as_the_model_with_the_rows_of_the_subsample() -> None:
    x, network = torch.randn(20, 2), Seen()
    guide = AutoFlow(model, FLOW, encoder={"data": network})
    guide(x, size=4)
    index = poutine.trace(guide).get_trace(x, size=4).nodes["data"]["value"]
    given, args, kwargs = network.seen[-1]
    assert torch.equal(given, x[index])
    assert (args, kwargs) == ((), {"size": 4})
    assert guide(x[:6], 6, 20)["z"].shape == (6, 2)  # a batch of six of twenty
    assert torch.equal(network.seen[-1][0], x[:6])
    trace = poutine.trace(guide).get_trace(x[:6], 6, 20)
    assert trace.nodes["z"]["scale"] == pytest.approx(20 / 6)


def test_features_of_all_points_lose_the_others_rows() -> None:
    class TimeFirst(nn.Module):
        def forward(self, x: Tensor, size: int) -> Tensor:
            return x.T

    def times(x: Tensor, size: int) -> None:
        with pyro.plate("data", x.shape[1], subsample_size=size) as index:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x.T[index])

    x = torch.arange(24.0).reshape(3, 8)
    guide = AutoFlow(times, FLOW, encoder={"data": TimeFirst()}, local=Gaussian())
    guide(x, 5)
    part = guide._locals()[0]
    features: list[Tensor] = []
    part.head.register_forward_pre_hook(lambda _, given: features.append(given[0]))
    index = poutine.trace(guide).get_trace(x, 5).nodes["data"]["value"]
    assert torch.equal(features[-1], x.T[index])


def test_settings_read_the_first_argument_alone_and_scalars_are_columns() -> None:
    def scalars(y: Tensor, other: Tensor) -> None:
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    for network in (MLP((4,)), Wrap(nn.Linear(1, 4))):
        guide = AutoFlow(scalars, FLOW, encoder={"data": network})
        assert guide(torch.randn(5), torch.randn(3))["z"].shape == (5,)


def test_sizes_may_change_from_run_to_run() -> None:
    guide = AutoFlow(model, FLOW, encoder={"data": MLP((4,))})
    assert [guide(torch.randn(n, 2))["z"].shape for n in (7, 3, 11)] == [(7, 2), (3, 2), (11, 2)]


def test_two_plates_with_encoders_and_supports_that_depend_on_other_latents() -> None:
    """Users x items, subsampled on their own; b_i ~ Uniform(0, a) with a global a."""

    def ratings(r: Tensor) -> None:
        top = pyro.sample("top", dist.HalfNormal(2.0))
        users = pyro.plate("users", r.shape[0], subsample_size=3, dim=-2)
        items = pyro.plate("items", r.shape[1], subsample_size=2, dim=-1)
        with users as i:
            user = pyro.sample("user", dist.Normal(0.0, 1.0))
        with items as j:
            item = pyro.sample("item", dist.Uniform(0.0, top))
        with users, items:
            pyro.sample("r", dist.Normal(user + item, 1.0), obs=r[i][:, j])

    class Means(nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.dim = dim

        def forward(self, r: Tensor) -> Tensor:
            return r.mean(self.dim)[:, None]

    r = torch.randn(10, 8) + 1
    # `rows` of users reach the encoder of users; items are columns, so their features are of all of them
    guide = AutoFlow(ratings, FLOW, encoder={"users": Means(1), "items": Means(0)}, draws=20)
    drawn = guide(r)
    assert (drawn["user"].shape, drawn["item"].shape) == ((3, 1), (2,))
    assert ((drawn["item"] > 0) & (drawn["item"] < drawn["top"])).all()
    loss = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=2).loss_and_grads(ratings, guide, r)
    assert torch.tensor(loss).isfinite()
    for name, parameter in guide.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_summaries_are_of_all_data_whatever_the_model_takes() -> None:
    x = torch.randn(20, 2)
    guide = AutoFlow(model, FLOW, encoder={"data": MLP((4,))}, draws=200)
    guide(x, 4)
    for arguments, rows in (((x, 4), 20), ((x,), 20), ((x[:6], 6, 20), 6)):
        found = guide.quantiles([0.1, 0.9], *arguments)
        assert {name: value.shape for name, value in found.items()} == {"weight": (2, 2), "z": (2, rows, 2)}
        assert (found["z"][0] < found["z"][1]).all()
    assert torch.equal(guide.median(x)["z"], guide.median(x, 4)["z"])


def test_parameters_are_the_modules_and_states_survive() -> None:
    x = torch.randn(10, 2)
    torch.manual_seed(0)
    encoder = nn.Linear(2, 3)
    guide = AutoFlow(model, FLOW, encoder={"data": Wrap(encoder)})
    guide(x)
    before = copy.deepcopy(guide.state_dict())
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    kept = copy.deepcopy(guide)
    svi.step(x, 4)
    assert not list(pyro.get_param_store().keys())
    assert not torch.equal(
        guide.state_dict()["locals.0.encoder.network.weight"], before["locals.0.encoder.network.weight"]
    )
    assert guide.state_dict()["locals.0.encoder.network.weight"].data_ptr() == encoder.weight.data_ptr()
    assert all(torch.equal(value, before[name]) for name, value in kept.state_dict().items())
    other = AutoFlow(model, FLOW, encoder={"data": Wrap(nn.Linear(2, 3))})
    other(x)
    other.load_state_dict(guide.state_dict())
    loaded = pickle.loads(pickle.dumps(guide))
    draws = []
    for each in (guide, other, loaded):
        torch.manual_seed(5)
        draws.append(each(x, 4))
    for drawn in draws[1:]:
        assert all(torch.equal(value, draws[0][name]) for name, value in drawn.items())


def test_it_is_a_part_of_a_list_of_guides() -> None:
    x = torch.randn(10, 2)
    guide = AutoGuideList(model)
    guide.append(AutoFlow(poutine.block(model, expose=["z", "data"]), FLOW, encoder={"data": MLP((4,))}))
    guide.append(AutoFlow(poutine.block(model, expose=["weight"]), FLOW))
    loss = Trace_ELBO().loss_and_grads(model, guide, x)
    assert torch.tensor(loss).isfinite()
    assert guide(x)["z"].shape == (10, 2)


def test_initial_values_locate_the_local_latents() -> None:
    guide = AutoFlow(
        model,
        FLOW,
        encoder={"data": MLP((4,))},
        init_loc_fn=init_to_value(values={"z": torch.tensor([100.0, -40.0]).expand(10, 2), "weight": torch.ones(2)}),
    )
    assert (guide(torch.randn(10, 2))["z"] - torch.tensor([100.0, -40.0])).abs().max() < 8


def test_a_fit_captures_a_subsampled_model() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 2)
    found = []
    for compiled in ("none", "capture"):
        guide = AutoFlow(model, FLOW, encoder={"data": MLP((4,))})
        settings = GuideSettings(steps=20, particles=2, compile=compiled)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # such as that of a pair that cannot be captured
            found.append(fit_autoguide(model, guide, settings, (x, 8), progress=False).losses)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def nested(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-2), pyro.plate("inner", 3, dim=-1):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def discrete(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("k", dist.Categorical(torch.ones(3)))


def grows(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))


def sometimes(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        if len(x) > 4:
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def closed() -> None:
    with pyro.plate("data", 4):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def no_latents(x: Tensor) -> None:
    pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), obs=x)


OUTSIDE = pyro.plate("data", 5)


def outside(x: Tensor) -> None:
    with OUTSIDE:
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def without_size(x: Tensor) -> None:
    with pyro.plate("data", dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(5, 2), 1.0).to_event(1))


def in_a_loop(x: Tensor) -> None:
    for i in pyro.plate("data", len(x)):
        pyro.sample(f"z{i}", dist.Normal(torch.zeros(2), 1.0).to_event(1))


class First(nn.Module):
    """A network that gives something else than features of points."""

    def __init__(self, found: Any) -> None:
        super().__init__()
        self.found = found

    def forward(self, x: Tensor) -> Any:
        return self.found(x)


X = torch.randn(5, 2)


@pytest.mark.parametrize(
    ("of", "encoder", "args", "words"),
    [
        (model, {"dta": MLP()}, (X,), ["'dta'", "'data'"]),
        (no_latents, {"data": MLP()}, (X,), ["'data'", "no latent"]),
        (nested, {"data": MLP()}, (X,), ["'z'", "'data'", "'inner'", "to_event"]),
        (discrete, {"data": MLP()}, (X,), ["'k'", "Categorical", "discrete"]),
        (closed, {"data": MLP()}, (), ["'data'", "first argument"]),
        (outside, {"data": MLP()}, (X,), ["'data'", "pyro.plate"]),
        (without_size, {"data": MLP()}, (X,), ["'data'", "size"]),
        (in_a_loop, {"data": MLP()}, (X,), ["'z0'", "'data'"]),
        (model, {"data": MLP()}, (X.long(),), ["int64"]),
        (model, {"data": nn.Linear(3, 2)}, (X,), ["'data'", "Linear", "(5, 2)"]),
        (model, {"data": nn.Linear(2, 2)}, (X, 3), ["'data'", "Linear", "Wrap"]),
        (model, {"data": First(lambda x: x.mean(1))}, (X,), ["(5,)", "(5, F)"]),
        (model, {"data": First(lambda x: x[:2])}, (X,), ["(2, 2)", "(5, F)"]),
        (model, {"data": First(lambda x: (x, x))}, (X,), ["tuple", "(5, F)"]),
        (model, {"data": First(lambda x: x.long())}, (X,), ["int64", "(5, F)"]),
    ],
)
def test_mistakes_are_named_at_the_first_run(of: Any, encoder: Any, args: Any, words: list[str]) -> None:
    guide = AutoFlow(of, FLOW, encoder=encoder)
    for _ in range(2):  # and the second call does not take it for set up
        with pytest.raises(FlowvaeError) as refused:
            guide(*args)
        assert all(word in str(refused.value) for word in words), refused.value
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("of", "encoder", "second", "words"),
    [
        (grows, First(lambda x: x[:, :1]), torch.randn(5, 3), ["'z'", "(3,)", "(2,)"]),
        (sometimes, MLP(), torch.randn(3, 2), ["'data'", "without latent"]),
        (model, First(lambda x: x.expand(-1, 2 if len(x) == 5 else 3)[:, :3]), torch.randn(4, 2), ["'data'"]),
        (model, MLP(), torch.randn(4, 3), ["(4, 3)", "(N, 2)"]),
        (model, First(lambda x: torch.ones(len(x), len(x))), torch.randn(4, 2), ["4 features", "5"]),
    ],
)
def test_changes_between_runs_are_named(of: Any, encoder: Any, second: Tensor, words: list[str]) -> None:
    guide = AutoFlow(of, FLOW, encoder={"data": encoder})
    guide(X)
    with pytest.raises(FlowvaeError) as refused:
        guide(second)
    assert all(word in str(refused.value) for word in words), refused.value
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoder": MLP()}, ["AutoFlow.encoder", "'data'"]),
        ({"encoder": {"data": "mlp"}}, ["'data'", "'mlp'"]),
        ({"encoder": {"data": MLP}}, ["'data'", "MLP("]),
        ({"encoder": {1: MLP()}}, ["AutoFlow.encoder", "1"]),
        ({"local": "gaussian"}, ["AutoFlow.local", "'gaussian'"]),
        ({"local": SemiAmortized()}, ["AutoFlow.local", "SemiAmortized"]),
        ({"structured": 1}, ["AutoFlow.structured", "1"]),
    ],
)
def test_settings_are_checked_at_once(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(FlowvaeError) as refused:
        AutoFlow(model, FLOW, **settings)
    assert all(word in str(refused.value) for word in words), refused.value


def test_a_subsampled_plate_without_an_encoder_is_refused_with_this_remedy() -> None:
    with pytest.raises(FlowvaeError, match=r"'z'.*'data'.*3 of 5.*encoder=\{'data'"):
        AutoFlow(model, FLOW)(X, 3)


def test_a_guide_without_global_latents_says_so() -> None:
    guide = AutoFlow(grows, FLOW, encoder={"data": MLP((4,))})
    guide(X)
    with pytest.raises(FlowvaeError, match="encoder"):
        guide.get_posterior()


def test_a_flow_that_draws_slowly_warns() -> None:
    def many(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(8), 1.0).to_event(1))

    with pytest.warns(UserWarning, match=r"MAF as a guide: .* at latent 8"):
        AutoFlow(many, MAF(2, (8,)), encoder={"data": MLP((4,))})(X)
