"""Which parts of a VAE should read the class c, and does knowing c help p(z | c)?

Arms: VAEs of the digits in which no part reads c, the prior does (a flow over a base that moves with c, as in VITS, Kim
et al. 2021, or a flow that reads c), the decoder does (CVAE, Sohn et al. 2015), or both; the guide reads c with them,
but in one arm. A seed decides split, weights, batches and noise alike in all arms. Afterwards two flows, with and
without c, are fitted to the codes of the frozen VAE with N(0, I) and without c.

Measures, on test images, in nats per image or percent: NLL of p(x | c), and of p(x) = Σ_c p(x | c) p(c), which
all arms have; accuracy and log p(c | x) of Bayes' rule, against logistic regression on pixels; how often a linear
probe finds c in the base point u of a code, and that regression in images generated for c; what the fitted flows add to
the ELBO of the frozen VAE, in parts (`gains`).

What theory predicts: log p(x | c) − log p(x) is at most the entropy of c, log 10 ≈ 2.30 nats. Where the prior reads
c, u hardly depends on c. A flow gains KL(q̄‖N) − KL(q̄‖p) on codes, so it gains without c too, and more with it.

The command resumes an interrupted study:

    python -m flowvae.comparisons.studies.conditional_priors --out runs/conditional-priors
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import tyro
from torch import Tensor
from zuko.lazy import LazyDistribution

from flowvae.comparisons.engine.bases import base_on
from flowvae.comparisons.engine.grid import run_grid
from flowvae.comparisons.engine.protocol import protocol_of
from flowvae.comparisons.engine.statistics import paired_differences
from flowvae.core.errors import FlowvaeError
from flowvae.core.files import as_path, write_table
from flowvae.core.parts import Condition, PriorSpec
from flowvae.core.script import run_script
from flowvae.core.seeds import derive, seeded
from flowvae.data import Batch, Dataset, batch_of
from flowvae.evaluation import to_base, write_figure
from flowvae.evaluation.figures.drawing import BLUE, GREY, new_figure
from flowvae.experiments.run import Run, load
from flowvae.flows import RealNVP
from flowvae.guides import NoGuide
from flowvae.inference import Training, fit
from flowvae.models import ConditionalBase, StandardNormal

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["ARMS", "COMPARED", "differences", "fit_flow", "gains", "measure_run", "plot_arms", "summary"]

FLOW = RealNVP(4, (32,))
NOBODY, PRIOR, CVAE = "nobody, N(0, I)", "prior (flow), guide", "decoder, guide (CVAE)"
BOTH, REGRESSION = "prior (flow), decoder, guide", "logistic regression"
ARMS: dict[str, tuple[PriorSpec, Condition | None]] = {  # by who reads the class
    NOBODY: (StandardNormal(), None),
    "nobody, flow prior": (FLOW, None),
    "prior (moving base), guide": (ConditionalBase(FLOW), Condition(decoder=False)),
    PRIOR: (FLOW, Condition(decoder=False)),
    "prior (flow) alone": (FLOW, Condition(decoder=False, encoder=False, guide=False)),
    CVAE: (StandardNormal(), Condition(prior=False)),
    BOTH: (FLOW, Condition()),
}
COMPARED: dict[str, tuple[tuple[str, str], ...]] = {  # the pairs that notebook 14 discusses
    "nll_nats": (("nobody, flow prior", NOBODY), (CVAE, NOBODY), (CVAE, PRIOR), ("prior (flow) alone", PRIOR)),
    "accuracy_percent": ((PRIOR, REGRESSION), (CVAE, REGRESSION)),
    "log_class_nats": ((PRIOR, REGRESSION), (CVAE, REGRESSION)),
    "generated_right_percent": ((BOTH, PRIOR), (CVAE, PRIOR)),
}
MEASURES = ("nll_given_nats", *COMPARED, "class_from_u_percent")
GAINS = ("flow_nats", "class_nats", "knowing_class_nats", "flow_per_class_nats")
ASKED, CODES = 100, 50  # generated images of each class; draws of a code of each test image


def _labelled(data: Dataset, split: str) -> tuple[Tensor, Tensor]:  # images (N, pixels) and classes (N,)
    x, c = batch_of(data, Condition(), split).args
    return x.flatten(1), c.argmax(1)


def _log_shares(data: Dataset) -> Tensor:  # log p(c), from the training images
    return batch_of(data, Condition(), "train").args[1].double().mean(0).log()


def _regression(x: Tensor, y: Tensor, strength: float = 1.0) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=3000).fit(x.numpy(), y.numpy())


def _classified(log_class: Tensor, y: Tensor) -> dict[str, float]:
    right, own = log_class.argmax(1) == y, log_class.gather(1, y[:, None])
    return {"accuracy_percent": 100 * right.double().mean().item(), "log_class_nats": own.mean().item()}


@torch.no_grad()
def measure_run(run: Run, judge: Any, draws: int) -> dict[str, float]:
    """Measure a trained arm on the test images: the columns of `MEASURES` that it has.

    The judge, of scikit-learn, classifies generated images (N, pixels); `draws` is K of log p(x | c).
    """
    data, seed, condition = run.data, run.experiment.seed, run.experiment.condition
    y, nll = _labelled(data, "test")[1], run.metric("nll").value
    row = {"nll_nats": nll}
    if condition is not None:
        row = _classified(run.classify(data.test, draws), y)
        row |= {"nll_given_nats": nll, "nll_nats": nll + row["log_class_nats"] - _log_shares(data)[y].mean().item()}
        c = torch.arange(data.class_count).repeat_interleave(ASKED)
        row["generated_right_percent"] = 100 * judge.score(run.sample(c=c, seed=seed).flatten(1).numpy(), c.numpy())
    u: dict[str, Tensor] = {}
    for split in ("train", "test"):
        batch = batch_of(data, condition, split)
        z = run.encode(batch.x, batch.c, draws=1, seed=derive(seed, split))[0]
        u[split] = to_base(run.pair.model.prior_given(batch.c), z)
    probe = _regression(u["train"], _labelled(data, "train")[1])
    return row | {"class_from_u_percent": 100 * probe.score(u["test"].numpy(), y)}


def fit_flow(run: Run, condition: Condition | None, steps: int) -> LazyDistribution:
    """Fit a flow by maximum likelihood to codes of a frozen guide, new ones in each step; the best step is kept."""
    train, valid = (batch_of(run.data, condition, split) for split in ("train", "valid"))
    with seeded(derive(run.experiment.seed, "flow")):
        flow = FLOW.build(run.experiment.latent_shape.numel(), 0 if train.c is None else train.c.shape[1])

    def loss(batch: Batch, draws: int = 1) -> Tensor:
        x, *c = batch.args
        z = run.pair.guide.posterior(x).sample((draws,))  # without gradient, so the guide stays as it is
        return -flow(*c).log_prob(z).mean()

    settings = Training(epochs=steps, batch_size=len(train), learning_rate=3e-3, patience=steps, device="cpu")
    how: dict[str, Any] = {"objective": loss, "validation": lambda held_out: loss(held_out, 4), "progress": False}
    fit(flow, NoGuide(), train, valid, settings, run.experiment.seed, **how)
    return flow


@torch.no_grad()
def gains(run: Run, alone: LazyDistribution, with_class: LazyDistribution) -> dict[str, float]:
    """Nats per image that two flows, the second of which reads c, gain on test codes of a run with N(0, I), without c.

    Returns:
        flow: log p(z) − log N(z; 0, I), of the flow `alone`;
        class: log p(z | c) − log p(z) at the class of the image, which is the sum of the next two;
        knowing_class: log p(z | c) − log Σ_c p(z | c) p(c), at most −log p(c);
        flow_per_class: log Σ_c p(z | c) p(c) − log p(z), of a mixture of flows over a single one.
    """
    z = run.encode(run.data.test, draws=CODES, seed=derive(run.experiment.seed, "test codes"))
    given = torch.stack([with_class(c).log_prob(z) for c in torch.eye(run.data.class_count)], -1).double()
    own = given[:, torch.arange(z.shape[1]), _labelled(run.data, "test")[1]]
    mixed = (given + _log_shares(run.data)).logsumexp(-1)
    single, normal = alone().log_prob(z).double(), run.pair.model.prior_given(None).log_prob(z).double()
    found = (single - normal, own - single, own - mixed, mixed - single)
    return {name: value.mean().item() for name, value in zip(GAINS, found, strict=True)}


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of `COMPARED`, see `paired_differences`; Holm's correction is within a measure."""
    import pandas as pd

    found = [paired_differences(table, pairs, name).assign(measure=name) for name, pairs in COMPARED.items()]
    return pd.concat(found)[["measure", "arm", "against", "difference", "se", "low", "high", "seeds", "p_holm"]]


def summary(table: pd.DataFrame, columns: tuple[str, ...] = MEASURES) -> pd.DataFrame:
    """Mean ± standard error over seeds of each arm, where it has the measure."""
    arms = table.groupby("arm", sort=False)[list(columns)]
    return arms.agg(lambda runs: f"{runs.mean():.2f} ± {runs.sem():.2f}" if runs.notna().all() else "")


def plot_arms(table: pd.DataFrame, title: str) -> Figure:
    """Plot measures of every arm: points are seeds, lines their means."""
    figure, arms = new_figure((13, 2.8)), list(table["arm"].unique())
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    for ax, column in zip(panels, MEASURES, strict=True):
        ax.scatter(table[column], [arms.index(arm) for arm in table["arm"]], s=12, color=GREY, linewidths=0)
        ax.scatter(table.groupby("arm")[column].mean()[arms], range(len(arms)), s=60, color=BLUE, marker="|")
        ax.set_xlabel(column)
    panels[0].set(yticks=range(len(arms)), yticklabels=arms, ylim=(len(arms) - 0.5, -0.5))
    figure.suptitle(title, fontsize=9)
    return figure


@dataclass(frozen=True)
class _Arguments:
    """Compare VAEs of the digits by which of their parts read the class.

    Args:
        out: directory of the runs, the tables (CSV) and the figure.
        seeds: number of seeds.
        epochs: of each training; the best one on validation images is kept.
        draws: K of each log p(x | c).
        steps: of each flow that is fitted to codes.
    """

    out: Path
    seeds: int = 5
    epochs: int = 50
    draws: int = 1000
    steps: int = 400


def main(argv: list[str] | None = None) -> int:
    """Run the study from the command line; the table is written after each arm."""
    import pandas as pd

    args = tyro.cli(_Arguments, args=argv, prog="python -m flowvae.comparisons.studies.conditional_priors")
    torch.set_num_threads(1)
    how = Training(epochs=args.epochs, patience=args.epochs, validation_draws=1, compile="capture", device="cpu")
    base = replace(base_on("digits"), inference=how)
    arms = {name: replace(base, prior=prior, condition=condition) for name, (prior, condition) in ARMS.items()}
    out, file = as_path(args.out), as_path(args.out) / "table.csv"
    before = pd.read_csv(file, dtype={"cell": str}) if file.exists() else pd.DataFrame()
    known = {(row["cell"], row["draws"], row["steps"]): row for row in before.to_dict("records")}
    rows: list[dict[str, Any]] = []
    for seed in range(args.seeds):
        data = base.data.load(seed)
        protocol = protocol_of(data, None)  # all arms have the NLL of p(x), without c
        judge = _regression(*_labelled(data, "train"), 0.01)
        grid = run_grid(arms, [seed], out / "runs", draws=args.draws)
        if len(grid.failed):
            raise FlowvaeError("; ".join(grid.failed["arm"] + ": " + grid.failed["error"]))
        for cell in grid.table[["arm", "seed", "parameters", "epochs", "cell"]].to_dict("records"):
            key = {"draws": args.draws, "steps": args.steps}
            row = cell | key | known.get((cell["cell"], *key.values()), {})
            if "protocol" not in row:
                run = load(out / "runs" / row["cell"])
                row |= measure_run(run, judge, args.draws) | protocol
                if row["arm"] == NOBODY:
                    row |= gains(run, *(fit_flow(run, condition, args.steps) for condition in (None, Condition())))
                write_table(file, pd.DataFrame([*rows, row]))
            rows.append(row)
        x, y = _labelled(data, "test")
        found = _classified(torch.from_numpy(judge.predict_log_proba(x.numpy())), y)
        rows.append({"arm": REGRESSION, "seed": seed, "cell": REGRESSION, **found, **protocol})
    table = pd.DataFrame(rows)
    write_table(file, table)
    words = f"{protocol['protocol']}; {args.seeds} seed(s), {args.epochs} epochs, K = {args.draws}"
    write_figure(plot_arms(table, words), out / "figure.png")
    print(summary(table).to_string(), summary(table[table["arm"] == NOBODY], GAINS).to_string(), sep="\n\n")
    if args.seeds > 1:
        write_table(out / "differences.csv", differences(table))
        print(f"\n{differences(table).to_string(index=False, float_format='%.2f')}")
    print(f"\n{words}; mean ± standard error over seeds; differences are paired, with a 95 % t interval (low, high).")
    return 0


if __name__ == "__main__":
    run_script(main)
