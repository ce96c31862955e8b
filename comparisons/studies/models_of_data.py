"""Autoregressive models and flows over the pixels of the same images, compared by bits/dim.

Autoregressive models compute log p(x) exactly, and flows over pixels a bound with dequantization noise. The primary
measure is bits/dim of the discrete test images. What theory predicts: autoregressive models and flows that take one
pass per pixel are flexible and slow to sample, a flow loses bits by treating counts as continuous, and models that use
the neighbourhood of pixels need fewer data.

    python -m flowvae.comparisons.studies.models_of_data --out runs/models-of-data
    python -m flowvae.comparisons.studies.models_of_data --out runs/fashion --data fashion-mnist --arms Glow --epochs 20
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from torch import nn

from flowvae.core.errors import FlowvaeError, nearest, shown
from flowvae.core.files import as_path, write_table
from flowvae.core.script import run_script
from flowvae.core.seeds import derive, seeded
from flowvae.data import Dataset, DataSpec, Digits, FashionMNIST, to_tensor
from flowvae.evaluation import flow_metrics, measure_flow, plot_flow_interpolation, plot_flow_samples, write_figure
from flowvae.experiments.directory import make_directory
from flowvae.flows import MAF, NSF, FlowSpec, Glow, RealNVP, Residual, initialize_from_data
from flowvae.guides import FlowNoise, NoGuide, UniformNoise
from flowvae.inference import Training, fit
from flowvae.models import Autoregressive, AutoregressiveModel, DequantizedFlow
from flowvae.networks import MADE, MLP, CausalSpec, PixelCNN, WaveNet

__all__ = ["ARMS", "measure_arm"]

Pair = tuple[nn.Module, nn.Module]

# settings were chosen on validation images
CONVOLUTIONS = Training(epochs=200, learning_rate=2e-3, patience=10, validation_draws=1)
MASKED = Training(epochs=200, patience=15, validation_draws=1)
FLOWS = Training(epochs=300, batch_size=64, weight_decay=0.1, patience=30, validation_draws=4)
RESIDUAL = Training(epochs=60, batch_size=64, learning_rate=3e-3, patience=30, validation_draws=1)
GLOW = Training(epochs=130, batch_size=64, learning_rate=2e-3, patience=30, validation_draws=4)


def _autoregressive(network: CausalSpec) -> Callable[[Dataset], Pair]:
    return lambda data: (Autoregressive(network).build(data), NoGuide())


def _flow(flow: FlowSpec, alpha: float, noise: FlowSpec | None = None) -> Callable[[Dataset], Pair]:
    def build(data: Dataset) -> Pair:
        model = DequantizedFlow(flow.transform(data.features), data.shape, _total(data), alpha)
        if isinstance(flow, Glow):
            train = to_tensor(data.train, data.name)
            initialize_from_data(model.flow.transform, train + torch.rand_like(train))
        if noise is None:
            return model, UniformNoise()
        return model, FlowNoise(MLP((64,)).build(data.shape), noise, data.shape, 64)

    return build


def _total(data: Dataset) -> int:
    if data.likelihood.largest is None:
        raise FlowvaeError(f"{data.name}: {data.likelihood} has no largest count; use data with bounded counts.")
    return data.likelihood.largest


# 5 bits per pixel, as is usual for image flows
DATA: dict[str, DataSpec] = {"digits": Digits(), "fashion-mnist": FashionMNIST(levels=32)}

MAF_64 = MAF(transforms=5, hidden_features=(128,))
CHECKERS = RealNVP(transforms=4, hidden_features=(64,), mask="checkerboard")

ARMS: dict[str, tuple[Callable[[Dataset], Pair], Training]] = {
    "MADE": (_autoregressive(MADE()), MASKED),
    "WaveNet": (_autoregressive(WaveNet()), CONVOLUTIONS),
    "PixelCNN masked": (_autoregressive(PixelCNN(kind="masked")), CONVOLUTIONS),
    "PixelCNN two-stack": (_autoregressive(PixelCNN()), CONVOLUTIONS),
    "MAF": (_flow(MAF_64, 0.0), FLOWS),
    "MAF, variational noise": (_flow(MAF_64, 0.0, noise=CHECKERS), FLOWS),
    "NSF": (_flow(NSF(transforms=2, hidden_features=(64,)), 0.01), FLOWS),
    "RealNVP checkerboard": (_flow(RealNVP(8, (64,), mask="checkerboard"), 0.001), FLOWS),
    "Residual": (_flow(Residual(transforms=4, hidden_features=(128,), exact_up_to=64), 0.01), RESIDUAL),
    "Glow": (_flow(Glow(rotate=True), 0.01), GLOW),
}


def measure_arm(
    name: str,
    seed: int,
    draws: int = 100,
    settings: Training | None = None,
    figures: Path | None = None,
    data: str = "digits",
) -> dict[str, object]:
    """Train one arm with one seed and measure it on the test images.

    Args:
        name: name of the arm.
        seed: seed of split, initial weights, order of batches and noise.
        draws: K, for arms with dequantization noise.
        settings: settings of the training; None: those of the arm.
        figures: folder for pictures of samples of a flow, and of paths between two images through its base space; None:
            no pictures.
        data: a name in `DATA`.

    Returns:
        One row: arm, data, number of test images, seed, parameters, epochs, seconds per epoch and for 64 samples,
        bits/dim with standard error over images, its bound, and K (0: exact).

    Raises:
        FlowvaeError: for an unknown arm or data set.
    """
    for kind, given, known in (("arm", name, ARMS), ("data", data, DATA)):
        if given not in known:
            raise FlowvaeError(f"{kind} {shown(given)}: {nearest(given, known)}")
    build, own = ARMS[name]
    images = DATA[data].load(seed)
    with seeded(derive(seed, "model of data")):
        model, guide = build(images)
    fitted = fit(model, guide, images.train, images.valid, settings or own, seed=seed, progress=sys.stderr.isatty())
    device = next(model.parameters()).device
    test = to_tensor(images.test, images.name).to(device)
    result = measure_flow(model, guide, test, draws, seed)
    metrics = {m.name: m for m in flow_metrics(result, images.features, True, "test", {})}
    if figures is not None and isinstance(model, DequantizedFlow):
        model.cpu()
        file = name.lower().replace(",", "").replace(" ", "-")
        write_figure(plot_flow_samples(model, images, seed=seed), figures / f"{file}-samples.png")
        write_figure(plot_flow_interpolation(model, images, seed=seed), figures / f"{file}-interpolation.png")
        model.to(device)
    started = time.perf_counter()
    _sample(model)
    return {
        "arm": name,
        "data": images.identity.name,
        "images": len(test),
        "seed": seed,
        "parameters": sum(p.numel() for part in (model, guide) for p in part.parameters()),
        "epochs": len(fitted.history),
        "seconds_per_epoch": fitted.history["seconds"].median(),
        "seconds_64_samples": time.perf_counter() - started,
        "bits_per_dim": metrics["bits_per_dim"].value,
        "se": metrics["bits_per_dim"].se,
        "bits_per_dim_bound": metrics["bits_per_dim_bound"].value,
        "draws": result.draws,
    }


def _sample(model: nn.Module) -> None:
    if isinstance(model, DequantizedFlow):
        model.generate(64)
    elif isinstance(model, AutoregressiveModel):
        model.sample(64, progress=False)


@dataclass(frozen=True)
class _Arguments:
    """Compare models of images by bits/dim.

    Args:
        out: directory of the table, and of pictures of the first seed.
        arms: names of the arms; by default all.
        seeds: number of seeds.
        data: digits, or fashion-mnist with 32 grey levels.
        epochs: upper limit of the epochs, in place of the arm's own.
        draws: K of the bound, for arms with dequantization noise.
    """

    out: Path
    arms: tuple[str, ...] = tuple(ARMS)
    seeds: int = 1
    data: str = "digits"
    epochs: int | None = None
    draws: int = 100


def main(argv: list[str] | None = None) -> int:
    """Run the study from the command line, and print each row when it is computed."""
    import pandas as pd

    args = tyro.cli(_Arguments, args=argv, prog="python -m flowvae.comparisons.studies.models_of_data")
    torch.set_num_threads(1)
    out = as_path(args.out)
    make_directory(out)
    rows = []
    for name in args.arms:
        for seed in range(args.seeds):
            own = ARMS[name][1] if name in ARMS else Training()
            settings = own if args.epochs is None else replace(own, epochs=args.epochs)
            rows.append(measure_arm(name, seed, args.draws, settings, None if seed else out, args.data))
            print(rows[-1], file=sys.stderr)
    table = pd.DataFrame(rows)
    write_table(out / "models_of_data.csv", table)
    print(table.to_string(index=False, float_format="%.3f"))
    print("bits/dim of the test images, ± se over images; draws 0: exact, else a bound from this many noise draws")
    return 0


if __name__ == "__main__":
    run_script(main)
