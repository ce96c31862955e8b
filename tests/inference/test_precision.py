"""Mixed precision: what is rounded, by how much, and that nothing else changes."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pair_cases import Interpreted
from torch import Size, Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from training_cases import FAST, Guide, Model, equal, pair, values, weights

from flowvae import MAF, Digits, Experiment, FlowvaeError
from flowvae.inference import EagerWarning, FiniteTraceELBO, Training, fit
from flowvae.inference.compile import training_step
from flowvae.inference.precision import autocast, networks_in
from flowvae.models import FlowDecoder
from flowvae.networks import MLP, Conv, GatedConv, ResNet

DIGITS = Digits().load(0)
CPU = torch.device("cpu")
LOW = replace(FAST, precision="bfloat16", batch_size=50)
PRODUCTS = {"aten::addmm", "aten::mm", "aten::bmm", "aten::convolution"}


class Products(TorchDispatchMode):
    """Counts matrix products and convolutions by the type of their first argument."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in PRODUCTS:
            self.found[next(value.dtype for value in pytree.tree_leaves(args) if isinstance(value, Tensor))] += 1
        return func(*args, **(kwargs or {}))


def digits_pair(**parts: Any) -> Any:
    torch.manual_seed(0)
    return Experiment(**{"latent": 3, "encoder": MLP((16, 8)), "decoder": MLP((16, 8)), **parts}).build(DIGITS)


def trained(settings: Training, path: Path | None = None, **parts: Any) -> tuple[Any, Any]:
    vae = digits_pair(**parts)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EagerWarning)
        found = fit(vae.model, vae.guide, DIGITS.train[:150], DIGITS.valid[:50], settings, 0, path, progress=False)
    return vae, found


def test_float32_rounds_nothing() -> None:
    vae = digits_pair()
    assert networks_in("float32", *vae) == []
    assert networks_in("float32", Model(3), Guide(3)) == []  # type: ignore[comparison-overlap]


def test_the_networks_are_rounded_and_nothing_else() -> None:
    vae = digits_pair(prior=MAF(transforms=2))
    networks = networks_in("bfloat16", *vae)
    assert networks == [vae.model.decoder, vae.guide.encoder]
    layers = sum(isinstance(layer, nn.Linear) for network in networks for layer in network.modules())
    counts = []
    for given in ([], networks):
        with autocast(given, CPU), Products() as products, torch.no_grad():
            FiniteTraceELBO().loss(*vae, DIGITS.train[:20])
        counts.append(products.found)
    exact, mixed = counts
    assert exact[torch.bfloat16] == 0
    assert mixed[torch.bfloat16] == layers == 5
    assert mixed[torch.float32] == exact[torch.float32] - layers > 0  # of the prior's networks and the guide's head


def test_a_rounded_layer_by_hand() -> None:
    network = MLP((5,)).build(Size((3,)), Size((2,)))
    w, b, v, a = (parameter.bfloat16() for parameter in network.parameters())
    x = torch.randn(7, 3)
    with autocast([network], CPU):
        found = network(x)
    h = torch.nn.functional.linear(x.bfloat16(), w, b).relu()
    expected = torch.nn.functional.linear(h, v, a).float()
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert not torch.equal(found, network(x))


@pytest.mark.parametrize(
    "network", [MLP((32, 32), gated=True), Conv((8, 16)), GatedConv((4, 6)), ResNet((8,), blocks=1)], ids=str
)
def test_loss_and_gradients_are_those_of_float64_up_to_bfloat16(network: Any) -> None:
    """bfloat16 has 8 significant bits, so that products are off by 2⁻⁹ = 0.002 of their size."""
    vae = digits_pair(encoder=network, decoder=network)
    x = DIGITS.train[:64]

    def loss_and_gradients(parts: Any, networks: Any, x: Tensor) -> Tensor:
        decoder, encoder, head = parts[0].decoder, parts[1].encoder, parts[1].head
        with autocast(networks, CPU):
            q = head(encoder(x).flatten(1))
            z = q.mean + q.stddev * noise.to(x.dtype)
            loss = -parts[0].likelihood(decoder(z)).log_prob(x).mean() - q.log_prob(z).mean()
        gradients = torch.autograd.grad(loss, [p for m in (decoder, encoder, head) for p in m.parameters()])
        assert all(g.dtype == x.dtype for g in gradients)
        return torch.cat([loss.reshape(1), *(g.flatten() for g in gradients)]).double()

    noise = torch.randn(64, 3)
    mixed = loss_and_gradients(vae, networks_in("bfloat16", *vae), x)
    single = loss_and_gradients(vae, [], x)
    double = loss_and_gradients([copy.deepcopy(part).double() for part in vae], [], x.double())
    for found, least, most in [(mixed, 1e-5, 0.05), (single, 0.0, 1e-4)]:
        assert abs(found[0] / double[0] - 1) < most / 10
        assert least < (found[1:] - double[1:]).norm() / double[1:].norm() < most


def test_a_flow_in_the_decoder_is_not_rounded() -> None:
    vae = digits_pair(decoder=FlowDecoder(network=MLP((8,))))
    assert networks_in("bfloat16", *vae) == [vae.model.decoder.network, vae.guide.encoder]


def test_captured_steps_are_the_same() -> None:
    one, first = trained(replace(LOW, compile="none"))
    two, second = trained(replace(LOW, compile="capture"))
    other, _ = trained(replace(LOW, compile="none", precision="float32"))
    assert list(first.history["valid_elbo"]) == pytest.approx(list(second.history["valid_elbo"]), abs=1e-4)
    for a, b, c in zip(one.model.parameters(), two.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert not torch.equal(a, c)
        torch.testing.assert_close(a, c, rtol=0.0, atol=0.02)


def test_compiled_steps_are_those_of_the_rounded_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_step, "NativeProgram", Interpreted)
    one, _ = trained(replace(LOW, compile="inductor"))
    two, _ = trained(replace(LOW, compile="capture"))
    other, _ = trained(replace(LOW, compile="inductor", precision="float32"))

    parameters = [torch.cat([p.flatten() for part in vae for p in part.parameters()]) for vae in (one, two, other)]
    compiled, rounded, exact = parameters
    assert 0 < (compiled - rounded).norm() < 0.1 * (exact - rounded).norm()


def test_validation_is_in_float32_and_the_networks_are_left_as_they_were() -> None:
    vae = digits_pair()
    seen: set[tuple[bool, bool]] = set()  # whether in training mode, whether rounded
    inner = vae.model.decoder[0]
    handle = inner.register_forward_hook(lambda m, _, out: seen.add((m.training, out.dtype == torch.bfloat16)))
    fit(vae.model, vae.guide, DIGITS.train[:50], DIGITS.valid[:50], replace(LOW, compile="none"), progress=False)
    handle.remove()
    assert seen == {(True, True), (False, False)}
    assert not torch.is_autocast_enabled("cpu")
    assert "forward" not in vars(vae.model.decoder)


def test_an_error_leaves_the_networks_as_they_were() -> None:
    network = MLP((4,)).build(Size((3,)))
    own = nn.Identity()
    own.forward = kept = lambda x: 2 * x  # type: ignore[method-assign]
    with autocast([network, own], CPU):
        assert torch.equal(own(torch.ones(2)), torch.full((2,), 2.0))
    assert own.forward is kept
    with pytest.raises(RuntimeError), autocast([network, own], CPU):
        network(torch.zeros(2, 5))
    assert "forward" not in vars(network)
    assert own.forward is kept


@pytest.mark.parametrize("compile_", ["none", "capture"])
def test_a_resumed_training_is_the_same_bit_for_bit(compile_: str, tmp_path: Path) -> None:
    settings = replace(LOW, compile=compile_)
    trained(replace(settings, epochs=1), tmp_path / "c")
    resumed, _ = trained(settings, tmp_path / "c")
    whole, _ = trained(settings)
    assert equal(weights(resumed.model), weights(whole.model))
    assert equal(weights(resumed.guide), weights(whole.guide))


def test_a_checkpoint_has_one_precision(tmp_path: Path) -> None:
    trained(replace(LOW, epochs=1), tmp_path / "c")
    with pytest.raises(FlowvaeError) as caught:
        trained(replace(LOW, precision="float32"), tmp_path / "c")
    assert all(word in str(caught.value) for word in ("precision", "float32", "bfloat16"))


def test_a_pair_of_ones_own_names_its_networks() -> None:
    x = values(40, 3)
    own = pair(3)
    with pytest.raises(FlowvaeError) as caught:
        fit(own["model"], own["guide"], x, x, LOW, progress=False)
    assert all(word in str(caught.value) for word in ("bfloat16", "Model", "low_precision"))
    assert "\n" not in str(caught.value)
    found = []
    for precision in ("float32", "bfloat16"):
        own = pair(3)
        own["model"].low_precision = own["guide"].low_precision = ()
        fit(own["model"], own["guide"], x, x, replace(LOW, precision=precision), progress=False)
        found.append(weights(own))
    assert equal(*found)
    own = pair(3)
    own["model"].low_precision, own["guide"].low_precision = (), (own["guide"].encoder,)
    fit(own["model"], own["guide"], x, x, LOW, progress=False)
    assert not equal(weights(own), found[0])


def test_a_network_of_both_is_rounded_once() -> None:
    own = pair(3)
    own["model"].low_precision = own["guide"].low_precision = (own["guide"].encoder,)
    assert networks_in("bfloat16", own["model"], own["guide"]) == [own["guide"].encoder]


def test_other_types_than_float32_are_refused() -> None:
    vae = digits_pair()
    vae.guide.double()
    with pytest.raises(FlowvaeError) as caught:
        networks_in("bfloat16", *vae)
    assert all(word in str(caught.value) for word in ("bfloat16", "AmortizedGuide", "torch.float64"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"precision": "float16"}, ["'float16'", "bfloat16"]),
        ({"precision": None}, ["None", "bfloat16"]),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(FlowvaeError) as caught:
        Training(**settings)
    assert all(word in str(caught.value) for word in words)
