"""The priors of several arms, drawn side by side."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from flowvae.evaluation import plot_priors
from flowvae.experiments.run import Run

__all__ = ["draw_priors"]


def draw_priors(runs: Mapping[str, Run], titles: Mapping[str, str]) -> dict[str, Figure]:
    """The densities of the arms' priors above their aggregated posteriors; nothing where the latent is not 2-D.

    Args:
        runs: the arms' runs of one seed.
        titles: of the arms to show, by their names.
    """
    shown = {title: runs[name] for name, title in titles.items() if name in runs}
    if not shown or any(run.experiment.latent != 2 for run in shown.values()):
        return {}
    return {"priors": plot_priors({title: run.pair for title, run in shown.items()}, next(iter(shown.values())).data)}
