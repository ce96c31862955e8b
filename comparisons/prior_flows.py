"""Which prior? N(0, I), a mixture, MAF, NSF, everything else equal.

The primary measure is the test NLL, paired over seeds. What theory predicts: on data that are plenty and
whose codes are far from Gaussian (the pinwheel) a flow prior comes nearer to the exact evidence; on few data
(the 1257 training digits) it can memorize their codes, so that its gain is bounded by what regularization
leaves of it.

    python -m flowvae.comparisons.prior_flows --data pinwheel --seeds 5 --out runs/prior-flows
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro

from flowvae.comparisons.paired import paired_differences, run_arms
from flowvae.data import Pinwheel
from flowvae.errors import FlowvaeError
from flowvae.evaluation import plot_priors
from flowvae.experiment import Experiment, load
from flowvae.flows import MAF, NSF
from flowvae.inference import Inference, atomic_write
from flowvae.models import Mixture, PriorSpec, StandardNormal

__all__ = ["arms"]


def arms(data: Literal["digits", "pinwheel"]) -> dict[str, Experiment]:
    """The four arms on a data set, with the same training."""
    priors: dict[str, PriorSpec] = {"normal": StandardNormal(), "mixture": Mixture()}
    if data == "digits":
        base = Experiment()
        priors |= {"maf": MAF(), "nsf": NSF()}
    else:  # data are plenty: larger flows than the defaults, which suit small data
        base = Experiment(latent=2, data=Pinwheel(), inference=PINWHEEL)
        priors |= {"maf": MAF(3, (64, 64)), "nsf": NSF(3, (64, 64), bins=8)}
    return {name: replace(base, prior=prior) for name, prior in priors.items()}


PINWHEEL = Inference(epochs=300, batch_size=256, patience=40)


@dataclass(frozen=True)
class _Arguments:
    """Compare priors on a data set.

    Args:
        out: directory of the runs and the tables.
        data: digits or pinwheel.
        seeds: how many.
        first_seed: the lowest seed.
    """

    out: Path
    data: Literal["digits", "pinwheel"] = "digits"
    seeds: int = 5
    first_seed: int = 0


def main(argv: list[str] | None = None) -> int:
    """Run the comparison from the command line."""
    args = tyro.cli(_Arguments, args=argv, prog="python -m flowvae.comparisons.prior_flows")
    torch.set_num_threads(1)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    table = run_arms(arms(args.data), seeds, args.out / args.data, progress=sys.stderr.isatty())
    print(table.to_string(index=False, float_format="%.3f"))
    with atomic_write(args.out / f"{args.data}.csv") as temporary:
        table.to_csv(temporary, index=False)
    if args.data == "pinwheel":
        loaded = {name: load(args.out / args.data / name / f"seed-{args.first_seed}") for name in arms(args.data)}
        figure = plot_priors({name: run.pair for name, run in loaded.items()}, loaded["normal"].data)
        with atomic_write(args.out / "pinwheel.png") as temporary:
            figure.savefig(temporary, format="png", dpi=150)
        excess = table.groupby("arm", sort=False)["nll_above_exact"].agg(["mean", "sem", "count"])
        print("\nNLL above the exact evidence, nats per datum: mean and standard error over seeds (test split)")
        print(excess.to_string(float_format="%.3f"))
    for measure in ("nll", "elbo"):
        print(f"\n{measure}: paired difference to prior normal, nats per datum, over seeds (test split)")
        print(paired_differences(table, "normal", measure).to_string(index=False, float_format="%.3f"))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FlowvaeError as error:
        sys.exit(f"{error}")
