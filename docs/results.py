"""Draws the figures and writes the tables of results.md from the stored answers.

python docs/results.py
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from flowvae.course.figures import BLUE, GREY, ORANGE, RED, use_style

DOCS = Path(__file__).parent
LEVEL = 0.05
MNIST = "static-mnist-5-seeds-20-epochs-200-draws"
DATA = {"digits-hour": "digits", "sprites-hour": "sprites", MNIST: "MNIST"}


@dataclass(frozen=True)
class Question:
    """The pairs of arms in the figure and the table of a question.

    Args:
        name: Name of the question; its answers are in `answers/NAME-DATA`.
        answers: Names of data and preset.
        pairs: Row labels by (arm, reference).
        measure: Measure whose differences are shown.
        label: Label of the figure's axis, with unit.
        better: The better sign, "negative" or "positive".
        columns: Further columns with means over seeds of the first arm: (measure, heading, digits).
    """

    name: str
    answers: tuple[str, ...]
    pairs: dict[tuple[str, str], str]
    measure: str = "nll"
    label: str = "difference in NLL, nats"
    better: str = "negative"
    columns: tuple[tuple[str, str, int], ...] = ()

    def differences(self, answer: str) -> pd.DataFrame:
        """Returns the rows of an answer for `pairs`, in that order."""
        table = pd.read_csv(DOCS / "answers" / f"{self.name}-{answer}" / f"differences-{self.measure}.csv")
        table = table.set_index(["arm", "against"])
        return table.loc[[self.find(pair, table) for pair in self.pairs if self.find(pair, table)]]

    def find(self, pair: tuple[str, str], table: pd.DataFrame) -> tuple[str, str] | None:
        """Returns the pair as named in the answer, at the middle decoder width if it has several, or None."""
        for end in ("", "@middle"):
            named = (pair[0] + end, pair[1] + end)
            if named in table.index:
                return named
        return None

    def means(self, answer: str) -> pd.DataFrame:
        """Returns the means over seeds, one row per arm."""
        table = pd.read_csv(DOCS / "answers" / f"{self.name}-{answer}" / "table.csv")
        return table.groupby("arm").mean(numeric_only=True)


N = "N(0, I)"
AGAINST_NORMAL = "normal"
PRIORS = {"mixture": "mixture", "realnvp": "RealNVP", "maf": "MAF", "nsf": "NSF", "coupling-nsf": "coupling NSF"}
PRIORS |= {"maf-deeper": "MAF, deeper", "maf-wider": "MAF, wider"}
GUIDES = {
    "semi-amortized": "semi-amortized Gaussian",
    "full-rank": "full covariance",
    "householder": "Householder",
    "radial": "radial",
    "planar": "planar, 8 layers",
    "planar-16": "planar, 16 layers",
    "sylvester-householder": "Sylvester",
    "realnvp": "RealNVP",
    "iaf-static": "IAF, static",
    "iaf": "IAF, conditioned",
}
JOINT = {
    "mixture": "mixture",
    "gtm": "GTM",
    "vamp": "VampPrior",
    "vamp-gtm": "VampPrior on a grid",
    "exemplar": "exemplars",
    "realnvp": "RealNVP",
    "maf": "MAF",
    "nsf": "NSF",
    "tarflow": "TarFlow",
    "mixture-flow": "MAF over a mixture",
    "two-level": "two levels, bottom-up",
    "top-down-warm": "two levels, top-down",  # without warm-up it loses 23 nats, which the page says
}
AFTER = {
    "mixture-after": "mixture",
    "maf-after": "MAF",
    "two-level-after": "two levels",
    "contrastive": "contrastive",
    "energy": "energy",
    "flow-matching": "flow matching",
}
LEARNED = {arm: f"{name}, jointly" for arm, name in JOINT.items()}
LEARNED |= {arm: f"{name}, afterwards" for arm, name in AFTER.items()}
LEFT = {"two-level-after", "maf-after", "mixture-after", "two-level", "realnvp"}  # labels that would overlap
BELOW = {"maf", "mixture-flow", "mixture-after", "gtm", "nsf", "flow-matching"}
BOTH = ("digits-hour", "sprites-hour")
QUESTIONS = (
    Question("prior-flows", BOTH, {(arm, "normal"): name for arm, name in PRIORS.items()}),
    Question(
        "learned-priors",
        ("digits-hour",),
        {(arm, "normal"): name for arm, name in LEARNED.items()},
        columns=(
            ("held_out_hole_mass", "mass in holes", 2),
            ("fid", "FID", 2),
            ("sampling_seconds", "s for 10,000 codes", 3),
        ),
    ),
    Question(
        "capacity",
        BOTH,
        {
            ("prior-flow", "normal"): "flow in the prior",
            ("wider", "normal"): "wider decoder",
            ("in-decoder", "normal"): "flow in the decoder",
        },
        columns=(("active_units", "active units", 1),),
    ),
    Question(
        "holes",
        BOTH,
        {
            ("flow-two-stage", "normal"): "MAF, afterwards",
            ("mixture-two-stage", "normal"): "mixture, afterwards",
            ("fine-tuned", "normal"): "MAF afterwards, then all",
            ("trained-on", "normal"): f"{N}, trained longer",
            ("flow-joint", "normal"): "MAF, jointly",
        },
        columns=(("held_out_hole_mass", "mass in holes", 2), ("fid", "FID", 2)),
    ),
    Question(
        "posterior-flows",
        BOTH,
        {(arm, "gaussian"): name for arm, name in GUIDES.items()},
        measure="elbo",
        label="difference in ELBO, nats",
        better="positive",
        columns=(("approximation_gap", "approximation gap", 2), ("amortization_gap", "amortization gap", 1)),
    ),
    Question(
        "prior-or-posterior",
        (MNIST, "sprites-hour", "digits-hour"),
        {
            ("prior-flow", "normal"): "flow in the prior",
            ("guide-flow", "normal"): "flow in the guide",
            ("guide-static", "normal"): "flow in the guide, static",
            ("both", "normal"): "both",
            ("full-rank", "normal"): "full covariance",
        },
    ),
)


def draw(question: Question) -> Figure:
    """Plots means and 95 % intervals of the differences, one panel per data set."""
    names = list(question.pairs.values())
    figure, axes = plt.subplots(
        1, len(question.answers), figsize=(7.5, 1.0 + 0.28 * len(names)), sharey=True, squeeze=False
    )
    for ax, answer in zip(axes[0], question.answers, strict=True):
        table = question.differences(answer)
        for row in table.itertuples():
            pair = tuple(part.removesuffix("@middle") for part in row.Index)
            place = names.index(question.pairs[pair])
            decided = row.p_holm < LEVEL
            ax.plot((row.low, row.high), (place, place), color=BLUE, linewidth=2)
            ax.plot(row.difference, place, "s", color=BLUE, markerfacecolor=BLUE if decided else "white", markersize=7)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_title(DATA[answer])
    axes[0][0].set_yticks(range(len(names)), names)
    axes[0][0].invert_yaxis()
    figure.supxlabel(f"{question.label} ({question.better}: better); filled: p < 0.05 after Holm", fontsize=9)
    return figure


def draw_sampling_time(answer: str) -> Figure:
    """Plots the NLL of each prior against the time of its draws, means over seeds with standard errors."""
    table = pd.read_csv(DOCS / "answers" / f"learned-priors-{answer}" / "table.csv").groupby("arm")
    figure, ax = plt.subplots(figsize=(6.5, 3.6))
    names = {"normal": N, **JOINT, **AFTER}
    for arm, name in names.items():
        if arm not in table.groups:
            continue
        runs = table.get_group(arm)
        colour, marker = (ORANGE, "^") if arm in AFTER else (BLUE, "o")
        place = runs["sampling_seconds"].mean(), runs["nll"].mean()
        ax.errorbar(*place, runs["nll"].sem(), color=colour, marker=marker, linestyle="")
        left, below = arm in LEFT, arm in BELOW
        ax.annotate(
            name,
            place,
            xytext=(-4 if left else 4, -9 if below else 3),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=7,
        )
    ax.errorbar([], [], color=BLUE, marker="o", linestyle="", label="jointly")
    ax.errorbar([], [], color=ORANGE, marker="^", linestyle="", label="afterwards")
    ax.set(xscale="log", xlabel="s for 10,000 codes, one core", ylabel="test NLL, nats", title=DATA[answer])
    ax.legend()
    return figure


def table_of(question: Question) -> str:
    """Returns a Markdown table of differences ± standard error, bold if significant, and further means of the arm."""
    head = [""]
    for answer in question.answers:
        head += [DATA[answer], *(f"{name}, {DATA[answer]}" for _, name, _ in question.columns)]
    reference = next(iter(question.pairs))[1]
    lines = {name: [name] for name in question.pairs.values()}
    base = [{"normal": N, "gaussian": "Gaussian"}[reference]]
    for answer in question.answers:
        found, means = question.differences(answer), question.means(answer)
        base += [""]
        for column, _, digits in question.columns:
            base += [f"{means.loc[reference, column]:.{digits}f}"]
        rows = {tuple(p.removesuffix("@middle") for p in row.Index): row for row in found.itertuples()}
        for pair, name in question.pairs.items():
            row = rows.get(pair)
            if row is None:
                lines[name] += ["", *("" for _ in question.columns)]
                continue
            text = f"{row.difference:+.2f} ± {row.se:.2f}".replace("-", "−")
            lines[name] += [f"**{text}**" if row.p_holm < LEVEL else text]
            for column, _, digits in question.columns:
                value = means.loc[row.Index[0], column]
                lines[name] += ["" if pd.isna(value) else f"{value:.{digits}f}"]
    rows = [*([base] if question.columns else []), *lines.values()]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


WEIGHTS = (0.01, 0.1, 0.3, 1, 3)
PRIORS_OF_BETA = {"normal": N, "two-stage": "MAF, afterwards", "joint": "MAF, jointly"}


def draw_kl_weight() -> Figure:
    """Plots the FID of samples against the KL weight, one panel per data set."""
    figure, axes = plt.subplots(1, 2, figsize=(7.5, 2.8), sharey=True)
    looks = zip(((BLUE, "o", "-"), (RED, "s", "--"), (ORANGE, "^", ":")), PRIORS_OF_BETA.items(), strict=True)
    looks = list(looks)
    for ax, answer in zip(axes, BOTH, strict=True):
        table = pd.read_csv(DOCS / "answers" / f"kl-weight-{answer}" / "table.csv")
        for (colour, marker, line), (arm, name) in looks:
            runs = [table.loc[table["arm"] == f"{arm}@{weight:g}", "fid"] for weight in WEIGHTS]
            ax.errorbar(
                WEIGHTS,
                [run.mean() for run in runs],
                [run.sem() for run in runs],
                color=colour,
                marker=marker,
                linestyle=line,
                label=name,
            )
        ax.axhline(table["fid_of_train"].mean(), color=GREY, linewidth=0.8, label="training images")
        ax.set(xscale="log", yscale="log", xlabel="KL weight β", title=DATA[answer])
        ax.set_xticks(WEIGHTS, [f"{weight:g}" for weight in WEIGHTS])
        ax.minorticks_off()
    axes[0].set_ylabel("FID of samples")
    axes[0].set_yticks((1, 3, 10, 30), ("1", "3", "10", "30"))
    axes[1].legend()
    return figure


def table_of_kl_weight() -> str:
    """Returns a Markdown table of the ELBO gain of a second stage, and FID before and after, for each weight."""
    head = [
        "β",
        *(f"{what}, {DATA[a]}" for a in BOTH for what in ("gain of the bound", f"FID {N}", "FID, MAF afterwards")),
    ]
    rows = []
    for weight in WEIGHTS:
        cells = [f"{weight:g}"]
        for answer in BOTH:
            place = DOCS / "answers" / f"kl-weight-{answer}"
            gains = pd.read_csv(place / "differences-elbo.csv").set_index(["arm", "against"])
            row = gains.loc[(f"two-stage@{weight:g}", f"normal@{weight:g}")]
            text = f"{row['difference']:+.2f} ± {row['se']:.2f}"
            fid = pd.read_csv(place / "table.csv").groupby("arm")["fid"].mean()
            cells += [f"**{text}**" if row["p_holm"] < LEVEL else text]
            cells += [f"{fid[f'{arm}@{weight:g}']:.1f}" for arm in ("normal", "two-stage")]
        rows.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])


def tables() -> dict[str, str]:
    """Returns all generated tables, by their names in the page."""
    return {question.name: table_of(question) for question in QUESTIONS} | {"kl-weight": table_of_kl_weight()}


def filled(page: str) -> str:
    """Replaces the tables of the page.

    Args:
        page: Markdown with `<!-- table NAME -->` before and `<!-- end -->` after each table.
    """
    for name, text in tables().items():
        page = re.sub(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", rf"\g<1>\n{text}\n\n\g<2>", page, flags=re.S)
    return page


def main() -> None:
    """Writes the figures and the tables."""
    use_style()
    out = DOCS / "results"
    out.mkdir(exist_ok=True)
    for question in QUESTIONS:
        draw(question).savefig(out / f"{question.name}.png", dpi=110)
    draw_kl_weight().savefig(out / "kl-weight.png", dpi=110)
    draw_sampling_time("digits-hour").savefig(out / "sampling-time.png", dpi=110)
    page = DOCS / "results.md"
    page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
