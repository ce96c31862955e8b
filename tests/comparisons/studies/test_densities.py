"""A fit moves towards the true density, and the picture shows it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowvae.comparisons.studies.densities import SETTINGS, fit_family, plot_grid
from flowvae.data import Moons
from flowvae.evaluation import measure_flow
from flowvae.flows import MAF
from flowvae.guides import NoGuide


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
