"""Every family that can be a density is in the picture, and a fit moves towards the truth."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowvae.comparisons.studies.densities import FAMILIES, SETTINGS, fit_family, plot_grid
from flowvae.core.registry import families
from flowvae.data import Moons
from flowvae.evaluation import measure_flow
from flowvae.flows import MAF
from flowvae.guides import NoGuide


def test_every_family_is_there() -> None:
    shown = {name.removeprefix("inverse-") for name in FAMILIES}
    # IAF is there as inverse-maf; Householder changes nothing about N(0, I)
    assert {
        name for name, family in families("flow").items() if not (family.default.wraps or family.default.shaped)
    } - shown == {"iaf", "householder"}


def test_a_fit_comes_nearer_to_the_true_density() -> None:
    data = Moons(train=512, valid=128, test=256).load(0)
    assert data.log_evidence is not None
    truth = data.log_evidence(data.test)
    gaps = []
    for epochs in (1, 25):
        settings = replace(SETTINGS, epochs=epochs, batch_size=64)
        model = fit_family(MAF(2, (32,)), data, settings=settings)
        gaps.append((truth - measure_flow(model, NoGuide(), data.test).log_likelihood).mean().item())
    assert gaps[1] < gaps[0] - 0.2
    assert gaps[1] > -0.05  # no model is better than the truth
    figure = plot_grid({"maf": model}, data, {"maf": gaps[1]})
    assert figure.axes[1].get_title() == pytest.approx(f"maf: +{gaps[1]:.2f}")
