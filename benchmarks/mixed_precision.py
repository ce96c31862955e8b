"""Accuracy and time of training with `Training.precision = "bfloat16"`.

    python benchmarks/mixed_precision.py --mnist static_mnist.npz    # three cases, 3 seeds; JSON with --out FILE
    python benchmarks/mixed_precision.py                             # Fashion-MNIST, binarized once
    python benchmarks/mixed_precision.py --cases digits --epochs 2   # a trial

One thread, standard normal prior, Gaussian guide, batch size 100. Columns:

    weights: weights at which the errors are measured: the initial ones, and those after training in float32.
    loss, gradient: relative errors against float64 of the negative ELBO of a batch, with one draw per data point, and
        of its gradient (norm of the difference over norm of the whole gradient), at the same weights and noise; means
        over five batches, in float32 and bfloat16.
    ELBO: validation ELBO, computed in float32, in nats per data point, at the best epoch of trainings that differ only
        in precision: mean over seeds in float32 ± standard deviation, and mean difference bfloat16 − float32, paired by
        seed, ± standard error.
    ms: CPU time of a training step (model, guide, ELBO, gradients, clipping, Adam) in milliseconds, the median over
        interleaved steps, uncompiled and captured.

Cases:
    digits: 8×8 digits of 17 grey levels, binomial, 8 latents, MLP of two layers of 128.
    gated: 28×28 bits, 40 latents, MLP of two gated layers of 300.
    conv: 28×28 bits, 40 latents, `Conv()`.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowvae import Digits, Experiment, FashionMNIST, StaticMNIST, Training
from flowvae.core.seeds import derive, seeded
from flowvae.data import Batch, Dataset
from flowvae.experiments.assemble import ModelGuide, build
from flowvae.inference import JointAdam, fit
from flowvae.inference.objectives.annealed_elbo import AnnealedELBO
from flowvae.inference.precision import PRECISIONS, autocast, networks_in
from flowvae.networks import MLP, Conv

BATCH = 100
BATCHES = 5
CPU = torch.device("cpu")
CASES: dict[str, tuple[int, Any]] = {  # size of a code, and both networks
    "digits": (8, MLP((128, 128))),
    "gated": (40, MLP((300, 300), gated=True)),
    "conv": (40, Conv()),
}
EPOCHS = {"digits": 100, "gated": 10, "conv": 5}


def gradients(pair: Any, x: Tensor, noise: Tensor, precision: str) -> Tensor:
    """Return the loss and its whole gradient in one float64 vector."""
    model, guide = pair
    with autocast(networks_in(precision, model, guide), CPU):
        q = guide.head(guide.encoder(x))
        z = q.mean + q.stddev * noise
        log_joint = model.prior().log_prob(z) + model.likelihood(model.decoder(z)).log_prob(x)
        loss = (q.log_prob(z) - log_joint).mean()
    parameters = [p for part in pair for p in part.parameters()]
    found = torch.autograd.grad(loss, parameters)
    return torch.cat([loss.detach().reshape(1), *(gradient.flatten() for gradient in found)]).double()


def errors(pair: ModelGuide, data: Dataset, features: int) -> dict[str, dict[str, float]]:
    """Compute relative errors of loss and gradient for each precision, averaged over batches."""
    exact = [copy.deepcopy(part).double() for part in pair]
    totals: dict[str, list[list[float]]] = {precision: [] for precision in PRECISIONS}
    for batch in range(BATCHES):
        x = data.train[batch * BATCH : (batch + 1) * BATCH]
        with seeded(derive(0, "noise", batch)):
            noise = torch.randn(len(x), features)
        truth = gradients(exact, x.double(), noise.double(), "float32")
        for precision in PRECISIONS:
            found = gradients(pair, x, noise, precision)
            loss = ((found[0] - truth[0]) / truth[0]).abs()
            gradient = (found[1:] - truth[1:]).norm() / truth[1:].norm()
            totals[precision].append([loss.item(), gradient.item()])
    return {
        precision: dict(zip(("loss", "gradient"), torch.tensor(rows).mean(0).tolist(), strict=True))
        for precision, rows in totals.items()
    }


def milliseconds(experiment: Experiment, data: Dataset, steps: int) -> dict[str, float]:
    """Measure the median CPU time of a training step in each precision, uncompiled and captured."""
    arms: dict[str, tuple[AnnealedELBO, list[nn.Module], list[float]]] = {}
    for precision in PRECISIONS:
        for mode in ("none", "capture"):
            model, guide = build(experiment, data)
            optim = JointAdam(nn.ModuleList([model, guide]).named_parameters(), 1e-3, 10.0)
            settings = Training(batch_size=BATCH, compile=mode, precision=precision)
            objective = AnnealedELBO(model, guide, optim, settings, BATCH, 1000)
            objective.start(0)
            arms[f"{precision} {mode}"] = objective, networks_in(precision, model, guide), []
    batch = Batch(data.train[:BATCH])
    for step in range(3 + steps):
        for objective, networks, seconds in arms.values():
            started = time.process_time()
            with autocast(networks, CPU):
                objective.step(batch)
            if step >= 3:  # the first steps capture the program
                seconds.append(time.process_time() - started)
    return {arm: 1e3 * statistics.median(seconds) for arm, (_, _, seconds) in arms.items()}


def case(name: str, data: Dataset, epochs: int, seeds: int, rows: int, steps: int) -> dict[str, Any]:
    """Measure one case."""
    latent, network = CASES[name]
    experiment = Experiment(latent=latent, encoder=network, decoder=network)
    found: dict[str, Any] = {
        "data": f"{data.name}, {data.preprocessing}",
        "rows": min(rows, len(data.train)),
        "epochs": epochs,
        "initial": errors(build(experiment, data), data, latent),
        "elbo": {precision: [] for precision in PRECISIONS},
    }
    for seed in range(seeds):
        for precision in PRECISIONS:
            pair = build(Experiment(latent=latent, encoder=network, decoder=network, seed=seed), data)
            settings = Training(epochs, BATCH, compile="capture", precision=precision, device="cpu")
            valid = data.valid[:2000]
            fitted = fit(pair.model, pair.guide, data.train[:rows], valid, settings, seed, progress=False)
            found["elbo"][precision].append(float(fitted.history["valid_elbo"].max()))
            if not seed and precision == "float32":
                found["trained"] = errors(pair, data, latent)
    found["ms"] = milliseconds(experiment, data, steps)
    return found


def table(name: str, found: dict[str, Any]) -> str:
    """Format the rows of a case."""
    lines = [f"{name}: {found['data']}; {found['rows']} training images, {found['epochs']} epochs"]
    for weights in ("initial", "trained"):
        for precision in PRECISIONS:
            error = found[weights][precision]
            lines.append(f"  {weights:8} {precision:9} loss {error['loss']:.1e}   gradient {error['gradient']:.1e}")
    exact, mixed = (found["elbo"][precision] for precision in PRECISIONS)
    differences = [b - a for a, b in zip(exact, mixed, strict=True)]
    spread, se = (statistics.stdev(v) if len(v) > 1 else float("nan") for v in (exact, differences))
    lines.append(
        f"  ELBO float32 {statistics.mean(exact):.2f} ± {spread:.2f}, bfloat16 − float32 "
        f"{statistics.mean(differences):+.3f} ± {se / len(differences) ** 0.5:.3f} nats ({len(exact)} seeds)"
    )
    times = ", ".join(f"{arm} {ms:.1f}" for arm, ms in found["ms"].items())
    return "\n".join([*lines, f"  ms of a step: {times}"])


def main() -> None:
    """Measure the cases and print their rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=CASES, metavar="CASE")
    parser.add_argument("--mnist", type=Path, help="fixed-binarized MNIST, as StaticMNIST reads it")
    parser.add_argument("--epochs", type=int, help="of every case; by default 100, 10 and 5 epochs")
    parser.add_argument("--rows", type=int, default=10_000, help="upper limit of the training images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="steps that are timed in each arm")
    parser.add_argument("--out", type=Path, help="a JSON file for all figures")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name in given.cases:
        images = StaticMNIST(given.mnist) if given.mnist else FashionMNIST(values="fixed")
        data = (Digits() if name == "digits" else images).load(0)
        results[name] = case(name, data, given.epochs or EPOCHS[name], given.seeds, given.rows, given.steps)
        print(table(name, results[name]), flush=True)
    if given.out:
        given.out.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
