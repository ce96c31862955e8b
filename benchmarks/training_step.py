"""What a training step costs: hand-written PyTorch, Pyro's recipe, its tracing ELBO, `fit`, and the compiled ELBO.

    python benchmarks/training_step.py --out runs/bench     # training_step.json and .txt: every case, no inductor
    python benchmarks/training_step.py --inductor --cases digits-128/maf/gaussian

All arms of a case train the same networks on the same batches, in a process of their own per case, one thread, one
step of each arm after the other (interleaved), after a warm-up. A step is loss, gradients and Adam. Figures are the
median, the least and the quartiles of a step's time in milliseconds; ratios are of medians to hand-written PyTorch.

Arms:
    by hand: zuko's flow and torch's distributions in a plain loop with one fused Adam and the same clipping as
        `fit`; no Pyro, no validation.
    recipe: `pyro.module`, zuko's `ZukoToPyro`, `pyro.optim.Adam`, `Trace_ELBO`, Pyro's defaults, as in its tutorials.
    jit: the recipe with `JitTrace_ELBO`.
    fit: the step that `flowvae.fit` takes with compile="none".
    capture, inductor: the same with the compiled ELBO.
    normflows, pythae: libraries of others, in the cases where they can build the same networks; `peers.py` says what
        is equal and what is not. They come with `pip install -e '.[bench]'`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import peers
import pyro
import pyro.distributions as dist
import torch
import zuko
from pyro.contrib.zuko import ZukoToPyro
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO
from torch import Size, Tensor, nn

from flowvae.core.seeds import derive, seeded
from flowvae.flows import IAF, MAF, NSF
from flowvae.guides import AmortizedGuide, FlowGuide, Gaussian
from flowvae.inference import JointAdam, Training
from flowvae.inference.objectives.annealed_elbo import AnnealedELBO
from flowvae.models import VAE, BernoulliLikelihood, BinomialLikelihood, StandardNormal
from flowvae.networks import Standardize

LEARNING_RATE = 1e-3
CLIP = 10.0
# batch, data and code size, width of two hidden layers, whether they are gated, likelihood
SIZES: dict[str, dict[str, Any]] = {
    "digits-128": {
        "batch": 128,
        "data": 64,
        "latent": 8,
        "width": 128,
        "gated": False,
        "likelihood": BinomialLikelihood(16),
    },
    "digits-32": {
        "batch": 32,
        "data": 64,
        "latent": 8,
        "width": 128,
        "gated": False,
        "likelihood": BinomialLikelihood(16),
    },
    "bits-128": {
        "batch": 128,
        "data": 64,
        "latent": 8,
        "width": 128,
        "gated": False,
        "likelihood": BernoulliLikelihood(),
    },
    "mnist-100": {
        "batch": 100,
        "data": 784,
        "latent": 40,
        "width": 300,
        "gated": True,
        "likelihood": BernoulliLikelihood(),
    },
}
PRIORS: dict[str, Any] = {
    "maf": MAF(transforms=3),
    "nsf": NSF(transforms=3),
    "maf-64": MAF(transforms=3, hidden_features=(64, 64)),
    "nsf-64": NSF(transforms=3, hidden_features=(64, 64)),
    "normal": StandardNormal(),
}
STATIC = IAF(transforms=2)
GUIDES: dict[str, Any] = {
    "gaussian": Gaussian(),
    "iaf": FlowGuide(IAF(transforms=2)),
    "static": FlowGuide(STATIC, conditioned=False),
}
CASES = [
    *(
        "/".join(parts)
        for parts in product(("digits-128", "digits-32", "mnist-100"), ("maf", "nsf"), ("gaussian", "iaf"))
    ),
    *("/".join(parts) for parts in product(("digits-128", "mnist-100"), ("maf-64", "nsf-64"), ("gaussian",))),
    *("/".join(parts) for parts in product(("bits-128", "mnist-100"), ("normal",), ("gaussian", "static"))),
]


class Gated(nn.Module):
    """A layer whose outputs are gated: (W x + b) ⊙ σ(V x + c)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.value = nn.Linear(inputs, outputs)
        self.gate = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * torch.sigmoid(self.gate(x))


def layers(inputs: int, width: int, gated: bool) -> list[nn.Module]:
    """Two hidden layers."""
    found: list[nn.Module] = []
    for before, after in pairwise((inputs, width, width)):
        found += [Gated(before, after)] if gated else [nn.Linear(before, after), nn.ReLU()]
    return found


def build(size: dict[str, Any], prior: str, guide: str) -> tuple[VAE, AmortizedGuide]:
    """The same networks for every arm, from the same seed."""
    with seeded(derive(0, "networks")):
        spec, shape = size["likelihood"], Size((size["data"],))
        likelihood = spec.build(shape, spec.units(torch.zeros(1, *shape)))
        hidden = layers(size["data"], size["width"], size["gated"])
        encoder = nn.Sequential(Standardize(likelihood.center, likelihood.unit), *hidden)
        decoder = nn.Sequential(
            *layers(size["latent"], size["width"], size["gated"]), nn.Linear(size["width"], size["data"])
        )
        model = VAE(PRIORS[prior].build(size["latent"]), decoder, likelihood)
        return model, AmortizedGuide(encoder, GUIDES[guide].build(size["latent"], size["width"]))


def log_likelihood(size: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor]:
    """Log p(x | z) of logits and data, both (B, D), shape (B,), as one writes it by hand."""
    if isinstance(size["likelihood"], BinomialLikelihood):

        def counts(logits: Tensor, x: Tensor) -> Tensor:
            p = torch.distributions.Binomial(16, logits=logits, validate_args=False)
            return p.log_prob(x).sum(-1)

        return counts
    return lambda logits, x: -nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def by_hand(model: VAE, guide: AmortizedGuide, size: dict[str, Any]) -> peers.Made:
    """What someone writes who knows PyTorch and zuko well."""
    prior, decoder, encoder, head = model.prior, model.decoder, guide.encoder, guide.head
    of_data = log_likelihood(size)

    def loss(x: Tensor) -> Tensor:
        features = encoder(x)
        if hasattr(head, "loc"):
            q = torch.distributions.Normal(head.loc(features), head.log_scale(features).exp(), validate_args=False)
            z = q.rsample()
            log_q = q.log_prob(z).sum(-1)
        else:
            z, log_q = head(features).rsample_and_log_prob(())
        return (log_q - of_data(decoder(z), x) - prior().log_prob(z)).mean()

    return [*model.parameters(), *guide.parameters()], loss


def plain_loop(parameters: list[nn.Parameter], loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], float]:
    """Loss, gradients, clipping and one fused Adam, without Pyro."""
    adam = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)

    def step(x: Tensor) -> float:
        value = loss(x)
        adam.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        adam.step()
        return value.item()

    return step


def others(name: str, networks: Callable[[], tuple[VAE, AmortizedGuide]]) -> dict[str, Callable[[Tensor], float]]:
    """The steps of those peers that are installed and can build the case."""
    size_name, prior, guide = name.split("/")
    size = SIZES[size_name]
    arms = {}
    if "normflows" in peers.available() and prior.endswith("-64") and guide == "gaussian":
        bins = getattr(PRIORS[prior], "bins", None)
        arms["normflows"] = plain_loop(*peers.normflows(*networks(), PRIORS[prior], bins, log_likelihood(size)))
    bernoulli = isinstance(size["likelihood"], BernoulliLikelihood)
    if "pythae" in peers.available() and prior == "normal" and bernoulli and guide in ("gaussian", "static"):
        flow = STATIC if guide == "static" else None
        arms["pythae"] = plain_loop(*peers.pythae(*networks(), size["data"], flow))
    return arms


def recipe(name: str, model: VAE, guide: AmortizedGuide, loss: Any) -> Callable[[Tensor], float]:
    """Pyro's tutorials: `pyro.module` in model and guide, one of Pyro's optimizers, an ELBO."""

    def pyro_model(x: Tensor) -> None:
        pyro.module(f"{name}-prior", model.prior)
        pyro.module(f"{name}-decoder", model.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", ZukoToPyro(model.prior()))
            pyro.sample("x", model.likelihood(model.decoder(z)), obs=x)

    def pyro_guide(x: Tensor) -> None:
        pyro.module(f"{name}-guide", guide)
        with pyro.plate("data", x.shape[0]):
            q = guide.head(guide.encoder(x))
            pyro.sample("z", q if isinstance(q, dist.TorchDistribution) else ZukoToPyro(q))

    svi = SVI(pyro_model, pyro_guide, pyro.optim.Adam({"lr": LEARNING_RATE}), loss=loss)
    return svi.step


def svi_of_fit(model: VAE, guide: AmortizedGuide, settings: Training) -> SVI:
    """What `fit` steps with."""
    pair = nn.ModuleDict({"model": model, "guide": guide})
    optim = JointAdam(pair.named_parameters(), LEARNING_RATE, settings.clip)
    return AnnealedELBO(model, guide, optim, settings, settings.batch_size, steps=1).svi


def step_of_fit(svi: SVI) -> Callable[[Tensor], float]:
    """The step of `fit`: validation in the first one only."""
    taken = 0

    def step(x: Tensor) -> float:
        nonlocal taken
        taken += 1
        with pyro.validation_enabled(taken == 1):
            return svi.step(x)

    return step


def batches(size: dict[str, Any]) -> Tensor:
    """Twenty batches of noise, of the kind that the likelihood takes, shape (20, B, D)."""
    generator = torch.Generator().manual_seed(0)
    most = 17 if isinstance(size["likelihood"], BinomialLikelihood) else 2
    return torch.randint(0, most, (20, size["batch"], size["data"]), generator=generator).float()


def case(name: str, steps: int, inductor: bool) -> dict[str, Any]:
    """All arms of one case, step by step in turn."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    size_name, prior, guide = name.split("/")
    size = SIZES[size_name]
    arms: dict[str, Callable[[Tensor], float]] = {}

    def networks() -> tuple[VAE, AmortizedGuide]:
        return build(size, prior, guide)

    arms["by hand"] = plain_loop(*by_hand(*networks(), size))
    arms["recipe"] = recipe("recipe", *networks(), Trace_ELBO())
    arms["jit"] = recipe("jit", *networks(), JitTrace_ELBO(ignore_jit_warnings=True))
    for mode in ("none", "capture", *(["inductor"] if inductor else [])):
        settings = Training(batch_size=size["batch"], compile=mode, clip=CLIP)
        arms["fit" if mode == "none" else mode] = step_of_fit(svi_of_fit(*networks(), settings))
    arms |= others(name, networks)
    data = batches(size)
    first: dict[str, float] = {}
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    losses: dict[str, float] = {}
    for index in range(-5, steps):
        for arm, step in arms.items():
            torch.manual_seed(index + 5)
            started = time.perf_counter()
            losses[arm] = step(data[index % len(data)])
            seconds = time.perf_counter() - started
            if index == -5:
                first[arm] = seconds
            elif index >= 0:
                times[arm].append(1000 * seconds)
    rows = {}
    hand = statistics.median(times["by hand"])
    for arm, found in times.items():
        quartiles = statistics.quantiles(found, n=4)
        median = statistics.median(found)
        rows[arm] = {
            "median_ms": median,
            "least_ms": min(found),
            "quartiles_ms": [quartiles[0], quartiles[2]],
            "ratio": median / hand,
            "ratio_of_least": min(found) / min(times["by hand"]),
            "first_step_s": first[arm],
            "last_loss": losses[arm] / (size["batch"] if arm in ("recipe", "jit") else 1),
        }
    return {"case": name, "steps": steps, "arms": rows}


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "zuko": zuko.__version__,
        "peers": {name: version(name) for name in peers.available()},
        "threads": 1,
    }


def table(result: dict[str, Any]) -> str:
    """One case as text."""
    lines = [
        f"{result['case']}: milliseconds a step, {result['steps']} steps",
        f"{'':10} {'median':>8} {'least':>8} {'quartiles':>15} {'ratio':>6} {'of least':>8} {'first, s':>8} loss",
    ]
    for arm, row in result["arms"].items():
        low, high = row["quartiles_ms"]
        lines.append(
            f"{arm:10} {row['median_ms']:8.2f} {row['least_ms']:8.2f} {low:7.2f}-{high:7.2f} {row['ratio']:6.2f} "
            f"{row['ratio_of_least']:8.2f} {row['first_step_s']:8.2f} {row['last_loss']:.3f}"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run every case in its own process, print the tables, and write them and the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="*", default=CASES, choices=CASES, metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--inductor", action="store_true", help="also compiled by inductor: minutes a case")
    parser.add_argument("--out", type=Path, help="a folder")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(case(given.one, given.steps, given.inductor)))
        return
    facts, results, failed = machine(), [], []
    texts = [f"{facts}\n"]
    for missing in sorted({"normflows", "pythae"} - {*peers.available()}):
        texts[0] += f"{missing} is not installed: its arm is left out (pip install -e '.[bench]').\n"
    print(texts[0])
    for name in given.cases:
        command = [sys.executable, __file__, "--one", name, "--steps", str(given.steps)]
        command += ["--inductor"] if given.inductor else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            failed.append(name)
            texts.append(f"{name}: failed\n{done.stderr[-2000:]}")
        else:
            results.append(json.loads(done.stdout.splitlines()[-1]))
            texts.append(table(results[-1]))
        print(texts[-1], flush=True)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        stored = json.dumps({"machine": facts, "results": results}, indent=1)
        (given.out / "training_step.json").write_text(stored)
        (given.out / "training_step.txt").write_text("\n".join(texts))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
