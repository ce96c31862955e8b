"""Signal-to-noise ratio of gradients of the importance-weighted bound against the number of draws K.

    python benchmarks/gradient_snr.py                 # table as JSON and figure into runs/bench; minutes
    python benchmarks/gradient_snr.py --samples 20    # a trial

Two pairs of model and guide:
    linear: z ~ N(0, I), x ~ N(z, I) of 20 dimensions, with the posterior N(x / 2, I / 2), and q = N(A x + b, 2/3 I). A,
        b and the model's matrix and mean are the optimal ones, perturbed by noise of standard deviation 0.01.
    digits: a VAE of 8 latents, MLPs of 2 × 128, N(0, I), Gaussian guide, trained for 100 epochs with the ELBO.

The gradient of the mean bound over one batch of 32 data points is sampled many times, with the objectives `iwae` and
`dreg`. The signal-to-noise ratio is that of the whole gradient g of the guide's parameters ("encoder") or of the
model's ("decoder"):

    SNR² = ‖E g‖² / E‖g − E g‖².

Both objectives have the same expected gradient, so ‖E g‖² is estimated for both from S samples of `dreg`, without bias,
as ‖ḡ‖² − tr Σ / S. Standard errors of log SNR are from a jackknife with 10 groups.

Theory, if the mean weight of K draws has a small relative variance: SNR is of order 1/√K for the encoder with `iwae`,
and √K for the others.

Rainforth et al. (2018), "Tighter Variational Bounds are Not Necessarily Better"; Tucker et al. (2019), "Doubly
Reparameterized Gradient Estimators for Monte Carlo Objectives".
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from flowvae import Experiment, Training
from flowvae.inference import DReGTraceELBO, IWAETraceELBO, fit
from flowvae.models import LinearGaussian
from flowvae.networks import declare_parameters

DRAWS = (1, 4, 16, 64, 256)
ESTIMATORS = {"iwae": IWAETraceELBO, "dreg": DReGTraceELBO}
PARTS = ("encoder", "decoder")
GROUPS = 10  # of the jackknife
ROWS = 32  # data points of the batch
SIZE = 20  # dimensions of a data point and of its code in the linear model
NOISE = 0.01  # standard deviation of the perturbation of its parameters


class LinearGuide(nn.Module):
    """q(z | x) = N(A x + b, 2/3 I)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.map = nn.Linear(size, size)
        self.map.weight.data = torch.eye(size) / 2 + NOISE * torch.randn(size, size)
        self.map.bias.data = NOISE * torch.randn(size)

    def forward(self, x: Tensor, size: int | None = None) -> None:
        declare_parameters("guide", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.map(x), (2 / 3) ** 0.5).to_event(1))


def linear(epochs: int) -> tuple[nn.Module, nn.Module, Tensor]:
    """Return the pair of Rainforth et al. (2018), section 4, and a batch."""
    torch.manual_seed(0)
    model = LinearGaussian(torch.eye(SIZE) + NOISE * torch.randn(SIZE, SIZE), NOISE * torch.randn(SIZE), 1.0)
    model.log_scale.requires_grad_(False)
    return model, LinearGuide(SIZE), 2**0.5 * torch.randn(ROWS, SIZE)


def digits(epochs: int) -> tuple[nn.Module, nn.Module, Tensor]:
    """Return model and guide after a training with the ELBO, and a batch of its data."""
    experiment = Experiment(inference=Training(epochs=epochs, device="cpu"))
    data = experiment.data.load(experiment.seed)
    model, guide = experiment.build(data)
    fit(model, guide, data.train, data.valid, experiment.inference, experiment.seed)
    return model, guide, data.train[:ROWS]


CASES = {"linear": linear, "digits": digits}


def gradients(elbo: Any, model: nn.Module, guide: nn.Module, x: Tensor, samples: int) -> dict[str, Tensor]:
    """Sample gradients of the mean bound over the batch, by part, each of shape (samples, parameters)."""
    parts = {"encoder": list(guide.parameters()), "decoder": list(model.parameters())}
    drawn: dict[str, list[Tensor]] = {name: [] for name in parts}
    for _ in range(samples):
        for parameters in parts.values():
            for parameter in parameters:
                parameter.grad = None
        elbo.loss_and_grads(model, guide, x)
        for name, parameters in parts.items():
            found = [p.grad.flatten() for p in parameters if p.grad is not None]
            drawn[name].append(torch.cat(found) / len(x))
    return {name: torch.stack(rows).double() for name, rows in drawn.items()}


def ratio(samples: Tensor, signal: Tensor) -> float:
    """Compute the SNR of gradients (S, P), with the signal from gradients (S, P) of the same mean; NaN: no signal."""
    squared = signal.mean(0).square().sum().item() - signal.var(0).sum().item() / len(signal)
    return math.sqrt(squared / samples.var(0).sum().item()) if squared > 0 else math.nan


def row(samples: Tensor, signal: Tensor) -> dict[str, float | None]:
    """Return the ratio and the standard error of its logarithm."""
    groups = torch.arange(len(samples)) % GROUPS
    left_out = [ratio(samples[groups != group], signal[groups != group]) for group in range(GROUPS)]
    logs = torch.tensor(left_out).log()
    error = math.sqrt((GROUPS - 1) * logs.var(correction=0).item())
    found = {"snr": ratio(samples, signal), "log_error": error}
    return {name: number if math.isfinite(number) else None for name, number in found.items()}


def slope(rows: list[dict[str, Any]]) -> float:
    """Return the exponent of K between the smallest and the largest number of draws with a signal."""
    seen = [one for one in rows if one["snr"] is not None]
    return math.log(seen[-1]["snr"] / seen[0]["snr"]) / math.log(seen[-1]["draws"] / seen[0]["draws"])


def figure(rows: list[dict[str, Any]]) -> Any:
    """Plot ratios against K: a row of panels per pair, encoder and decoder side by side, with lines of slope ±½."""
    drawn, axes = plt.subplots(2, 2, figsize=(6.4, 5.0), sharex=True, layout="constrained")
    for axis, (case, part) in zip(axes.flat, product(CASES, PARTS), strict=True):
        here = [one for one in rows if one["case"] == case and one["part"] == part and one["snr"] is not None]
        for name, colour in (("iwae", "tab:blue"), ("dreg", "tab:orange")):
            shown = [one for one in here if one["objective"] == name]
            errors = [one["snr"] * min(one["log_error"] or 0.0, 0.9) for one in shown]
            at, ratios = [one["draws"] for one in shown], [one["snr"] for one in shown]
            style = {"ls": "-", "lw": 3, "alpha": 0.6} if part == "decoder" and name == "iwae" else {"ls": "-"}
            axis.errorbar(at, ratios, errors, color=colour, marker="o", ms=4, label=name, **style)
        start = here[0]["snr"]
        for power in (0.5, -0.5) if part == "encoder" else (0.5,):
            label = "slope ±½" if power > 0 else None
            axis.plot(DRAWS, [start * k**power for k in DRAWS], color="0.7", lw=1, ls="--", zorder=0, label=label)
        axis.set(xscale="log", yscale="log", title=f"{case}, {part}'s gradient")
        axis.set_xticks(DRAWS, [str(k) for k in DRAWS])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[1]:
        axis.set_xlabel("draws K")
    for axis in axes[:, 0]:
        axis.set_ylabel("signal-to-noise ratio")
    axes[0, 0].legend(frameon=False)
    return drawn


def main() -> None:
    """Draw gradients; write table and figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=400, help="number of gradients of each kind")
    parser.add_argument("--epochs", type=int, default=100, help="epochs of the VAE")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for case, build in CASES.items():
        model, guide, x = build(given.epochs)
        for draws in DRAWS:
            samples = {}
            for name, make in ESTIMATORS.items():
                torch.manual_seed(draws)
                elbo = make(num_particles=draws, vectorize_particles=True, max_plate_nesting=1, compile="capture")
                samples[name] = gradients(elbo, model, guide, x, given.samples)
            for name, part in product(ESTIMATORS, PARTS):
                found = row(samples[name][part], samples["dreg"][part])
                rows.append({"case": case, "objective": name, "part": part, "draws": draws, **found})
                print(rows[-1], flush=True)
    slopes = {}
    for case, name, part in product(CASES, ESTIMATORS, PARTS):
        same = [one for one in rows if (one["case"], one["objective"], one["part"]) == (case, name, part)]
        slopes[f"{case} {name} {part}"] = slope(same)
    print("exponents of K:", {name: round(value, 2) for name, value in slopes.items()})
    given.out.mkdir(parents=True, exist_ok=True)
    protocol = {"samples": given.samples, "epochs": given.epochs, "rows": ROWS, "torch": torch.__version__}
    report = {"protocol": protocol, "exponents": slopes, "results": rows}
    (given.out / "gradient_snr.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    figure(rows).savefig(given.out / "gradient_snr.png", dpi=150)


if __name__ == "__main__":
    main()
