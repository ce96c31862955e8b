"""Time of a training step: hand-written PyTorch, Pyro's tutorials and JIT, `fit`, captured and compiled steps.

    python benchmarks/training_step.py --out runs/bench     # training_step.json and .txt: every case, no inductor
    python benchmarks/training_step.py --inductor --cases digits-128/maf/gaussian

All arms of a case train the same networks on the same batches, in one process per case, on one core, with interleaved
blocks of steps, after a warm-up. A step is loss, gradients and Adam. Results are median, minimum and quartiles of a
block's mean time per step in milliseconds; ratios are of medians, to hand-written PyTorch and to JAX's scan.

Arms:
    by hand: zuko's flow and torch's distributions in a plain loop with one fused Adam and the same clipping as
        `fit`; no Pyro, no validation.
    recipe: `pyro.module`, Pyro's `ZukoToPyro`, `pyro.optim.Adam`, `Trace_ELBO`, Pyro's defaults, as in its tutorials.
    jit: the recipe with `JitTrace_ELBO`.
    fit: the step of `flowvae.inference.fit` with compile="none".
    capture: the same with captured steps, with which long trainings begin.
    inductor: the same with compiled steps, with which they continue; the first one waits for the compiler, unless the
        program is in the cache on disk.
    normflows, pythae: other libraries, in the cases in which they can build the same networks; `peers.py` lists the
        differences. Install them with `pip install -e '.[bench]'`.
    jax, jax scan, numpyro, numpyro scan: the same networks in JAX, in a second process; `jax_peer.py` lists the
        differences. Install them with `pip install -e '.[jax]'`, or name an interpreter that has them with `--jax`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import jax_peer
import peers
import pyro
import pyro.distributions as dist
import torch
import zuko
from interleaved import BLOCK, Arm, Steps, interleaved
from pyro.contrib.zuko import ZukoToPyro
from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO
from torch import Size, Tensor, nn

from flowvae.core.seeds import derive, seeded
from flowvae.data import Batch
from flowvae.flows import IAF, MAF, NSF
from flowvae.guides import AmortizedGuide, FlowGuide, Gaussian
from flowvae.inference import JointAdam, Training
from flowvae.inference.objectives.annealed_elbo import AnnealedELBO
from flowvae.models import VAE, BernoulliLikelihood, BinomialLikelihood, StandardNormal
from flowvae.networks import Standardize

LEARNING_RATE = 1e-3
CLIP = 10.0
# batch size, sizes of data and code, width of the two hidden layers, whether they are gated, likelihood
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
    "nsf-64": NSF(transforms=3, hidden_features=(64, 64), bins=8),
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
    """Return two hidden layers."""
    found: list[nn.Module] = []
    for before, after in pairwise((inputs, width, width)):
        found += [Gated(before, after)] if gated else [nn.Linear(before, after), nn.ReLU()]
    return found


def build(size: dict[str, Any], prior: str, guide: str) -> tuple[VAE, AmortizedGuide]:
    """Build the networks, which are the same for every arm, from the same seed."""
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
    """Return a hand-written function of logits and data, both (B, D), for log p(x | z), shape (B,)."""
    if isinstance(size["likelihood"], BinomialLikelihood):

        def counts(logits: Tensor, x: Tensor) -> Tensor:
            p = torch.distributions.Binomial(16, logits=logits, validate_args=False)
            return p.log_prob(x).sum(-1)

        return counts
    return lambda logits, x: -nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def by_hand(model: VAE, guide: AmortizedGuide, size: dict[str, Any]) -> peers.Made:
    """Return parameters and loss of an efficient hand-written VAE in PyTorch and zuko."""
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
    """Return a step of loss, gradients, clipping and one fused Adam, without Pyro."""
    adam = torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True)

    def step(x: Tensor) -> float:
        value = loss(x)
        adam.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        adam.step()
        return value.item()

    return step


def others(name: str, networks: Callable[[], tuple[VAE, AmortizedGuide]], data: Tensor) -> list[Arm]:
    """Return the arms of the installed torch libraries that can build the case."""
    size_name, prior, guide = name.split("/")
    size = SIZES[size_name]
    arms: list[Arm] = []
    if "normflows" in peers.available() and prior.endswith("-64") and guide == "gaussian":
        bins = getattr(PRIORS[prior], "bins", None)
        made = peers.normflows(*networks(), PRIORS[prior], bins, log_likelihood(size))
        arms.append(Steps("normflows", plain_loop(*made), data))
    bernoulli = isinstance(size["likelihood"], BernoulliLikelihood)
    if "pythae" in peers.available() and prior == "normal" and bernoulli and guide in ("gaussian", "static"):
        flow = STATIC if guide == "static" else None
        arms.append(Steps("pythae", plain_loop(*peers.pythae(*networks(), size["data"], flow)), data))
    return arms


def recipe(name: str, model: VAE, guide: AmortizedGuide, loss: Any) -> Callable[[Tensor], float]:
    """Return a step as in Pyro's tutorials: `pyro.module` in model and guide, an optimizer of Pyro, an ELBO."""

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


def objective_of_fit(model: VAE, guide: AmortizedGuide, settings: Training) -> AnnealedELBO:
    """Return the objective that `fit` takes steps with."""
    pair = nn.ModuleDict({"model": model, "guide": guide})
    optim = JointAdam(pair.named_parameters(), LEARNING_RATE, settings.clip)
    return AnnealedELBO(model, guide, optim, settings, settings.batch_size, steps=1000)


def step_of_fit(objective: AnnealedELBO) -> Callable[[Tensor], float]:
    """Return the step of `fit`, with Pyro's validation only in the first one."""
    taken = 0

    def step(x: Tensor) -> float:
        nonlocal taken
        taken += 1
        with pyro.validation_enabled(taken == 1):
            return objective.step(Batch(x))

    return step


def batches(size: dict[str, Any]) -> Tensor:
    """Return twenty batches of random data in the support of the likelihood, shape (20, B, D)."""
    generator = torch.Generator().manual_seed(0)
    most = 17 if isinstance(size["likelihood"], BinomialLikelihood) else 2
    return torch.randint(0, most, (20, size["batch"], size["data"]), generator=generator).float()


def case(name: str, steps: int, inductor: bool, jax: str | None = None, block: int = BLOCK) -> dict[str, Any]:
    """Time all arms of one case, interleaved; `jax` is the interpreter of JAX's arms."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    size_name, prior, guide = name.split("/")
    size = SIZES[size_name]
    data = batches(size)

    def networks() -> tuple[VAE, AmortizedGuide]:
        return build(size, prior, guide)

    arms: list[Arm] = [
        Steps("by hand", plain_loop(*by_hand(*networks(), size)), data),
        Steps("recipe", recipe("recipe", *networks(), Trace_ELBO()), data, 1 / size["batch"]),
        Steps("jit", recipe("jit", *networks(), JitTrace_ELBO(ignore_jit_warnings=True)), data, 1 / size["batch"]),
    ]
    for mode in ("none", "capture", *(["inductor"] if inductor else [])):
        settings = Training(batch_size=size["batch"], compile=mode, clip=CLIP)
        step = step_of_fit(objective_of_fit(*networks(), settings))
        arms.append(Steps("fit" if mode == "none" else mode, step, data))
    arms += others(name, networks, data)
    with ExitStack() as stack:
        if jax and jax_peer.can_build(prior, guide):
            flow = None if prior == "normal" else PRIORS[prior]
            arms += stack.enter_context(jax_peer.JaxWorker(size, flow, *networks(), data, block, jax)).arms()
        rows = interleaved(arms, steps, block)
    for column, reference in (("ratio", "by hand"), ("to_scan", "jax scan")):
        for row in rows.values():
            row[column] = row["median_ms"] / rows[reference]["median_ms"] if reference in rows else None
    return {"case": name, "steps": steps, "block": block, "arms": rows}


def machine(jax: str | None = None) -> dict[str, Any]:
    """Return machine and versions, on which the results depend."""
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
        "peers": {name: version(name) for name in peers.available()} | (jax_peer.versions(jax) if jax else {}),
        "threads": 1,
    }


def table(result: dict[str, Any]) -> str:
    """Format the results of one case."""
    lines = [
        f"{result['case']}: milliseconds per step, {result['steps']} steps in blocks of {result['block']}",
        f"{'':12} {'median':>8} {'least':>8} {'quartiles':>15} {'by hand':>8} {'jax scan':>8} {'first, s':>8} loss",
    ]
    for arm, row in result["arms"].items():
        low, high = row["quartiles_ms"]
        ratios = [f"{row[column]:8.2f}" if row[column] else f"{'-':>8}" for column in ("ratio", "to_scan")]
        lines.append(
            f"{arm:12} {row['median_ms']:8.2f} {row['least_ms']:8.2f} {low:7.2f}-{high:7.2f} {ratios[0]} {ratios[1]} "
            f"{row['first_step_s']:8.2f} {row['last_loss']:.3f}"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run every case in a separate process, print the tables, and write tables and results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="*", default=CASES, choices=CASES, metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--inductor", action="store_true", help="also compiled steps: up to half a minute per case")
    parser.add_argument("--out", type=Path, help="a folder")
    parser.add_argument("--jax", default=sys.executable, metavar="PYTHON", help="interpreter that has JAX's libraries")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(case(given.one, given.steps, given.inductor, given.jax)))
        return
    facts, results, failed = machine(given.jax), [], []
    texts = [f"{facts}\n"]
    for missing in sorted({"normflows", "pythae", "jax"} - facts["peers"].keys()):
        extra = "jax" if missing == "jax" else "bench"
        texts[0] += f"{missing} is not installed: its arms are left out (pip install -e '.[{extra}]').\n"
    print(texts[0])
    for name in given.cases:
        command = [sys.executable, __file__, "--one", name, "--steps", str(given.steps)]
        command += ["--inductor"] if given.inductor else []
        command += ["--jax", given.jax if "jax" in facts["peers"] else ""]
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
