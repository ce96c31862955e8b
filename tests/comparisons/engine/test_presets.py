"""Presets scale the length of every training of a question."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowvae import FlowvaeError
from flowvae.comparisons import BASES, PRESETS, QUESTIONS, Preset, preset_of
from flowvae.comparisons.engine.presets import at_preset
from flowvae.comparisons.engine.statistics import LEAST_SEEDS


@pytest.mark.parametrize("data", BASES)
def test_the_cluster_preset_trains_longer(data: str) -> None:
    base = BASES[data].inference
    hour, cluster = (at_preset(BASES[data], PRESETS[preset]).inference for preset in ("hour", "cluster"))
    assert hour == base
    assert (cluster.epochs, cluster.patience) == (min(5 * base.epochs, 2000), 5 * base.patience)
    assert cluster.kl_warmup * base.epochs == base.kl_warmup * cluster.epochs
    assert replace(cluster, epochs=base.epochs, patience=base.patience, kl_warmup=base.kl_warmup) == base


def test_presets_that_decide_nothing_have_too_few_seeds_for_a_test() -> None:
    assert max(PRESETS[name].seeds for name in ("seconds", "minutes")) < LEAST_SEEDS
    assert min(PRESETS[name].seeds for name in ("hour", "cluster")) >= LEAST_SEEDS
    work = [(p.effort.rows, p.effort.refinement, p.effort.tempering.temperatures) for p in PRESETS.values()]
    assert work == sorted(work)


def test_presets_of_any_length_are_kept_to() -> None:
    arms = QUESTIONS["posterior-flows"].experiments("digits", "hour")
    for epochs in range(1, 401):
        preset = Preset(seeds=2, epochs=epochs, draws=1)
        assert {at_preset(arm, preset).inference.epochs for arm in arms.values()} == {epochs}


def test_a_label_states_how_long_a_training_can_be() -> None:
    assert Preset(seeds=2, epochs=999, draws=20).label(50) == "2-seeds-50-epochs-20-draws"


def test_mistakes_are_named() -> None:
    with pytest.raises(FlowvaeError, match=r"Preset\.seeds = 0"):
        Preset(seeds=0, epochs=2, draws=20)
    with pytest.raises(FlowvaeError, match=r"'minute'.*minutes"):
        preset_of("minute")
