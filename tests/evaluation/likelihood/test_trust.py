"""What is not finite or not to be trusted is not reported as a number like any other, and long work says so first."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowvae import Digits, Experiment, FlowvaeError, Pinwheel
from flowvae.core import progress
from flowvae.core.progress import bar
from flowvae.evaluation import (
    AIS,
    IWAE,
    AnnealedHMC,
    EvaluationContext,
    FlowLikelihoods,
    Metric,
    draw_codes,
    flow_metrics,
    importance_draws,
    importance_sample_each,
    likelihood_metrics,
    measure_ais,
    measure_gaps,
    measure_iwae,
    measure_likelihoods,
    measure_surgery,
    read_metrics,
    write_metrics,
)
from flowvae.evaluation.likelihood.annealed_hmc import schedule
from flowvae.evaluation.likelihood.elbo_and_nll import Likelihoods, distrust
from flowvae.evaluation.likelihood.importance_weights import check_draws, parts_of
from flowvae.evaluation.metric import mean_metric
from flowvae.experiments.assemble import ModelGuide
from flowvae.networks import MLP

NAN, INF = math.nan, math.inf
PLANE = Pinwheel(train=50, valid=20, test=70).load(0)


def pair() -> ModelGuide:
    return Experiment(latent=2, encoder=MLP((8,)), decoder=MLP((8,)), data=Pinwheel()).build(PLANE)


def outlying(row: int = 67, value: float = 1e25) -> Tensor:
    """Data with one extreme value, in the second block."""
    x = PLANE.test.clone()
    x[row, 1] = value
    return x


@pytest.mark.parametrize(
    "measure",
    [
        lambda m, g, x: measure_likelihoods(m, g, x, 30),
        lambda m, g, x: measure_iwae(m, g, x, (1, 30)),
        lambda m, g, x: importance_sample_each(m, g, x, 30),
    ],
    ids=["likelihoods", "iwae", "importance_sample_each"],
)
def test_a_datum_that_cannot_be_measured_is_named(measure: Any) -> None:
    with pytest.raises(FlowvaeError, match=r"x\[67\].*1e\+25.*row 67, column 1") as caught:
        measure(*pair(), outlying())
    assert len(str(caught.value).splitlines()) == 1


def test_other_measures_name_the_datum_too() -> None:
    with pytest.raises(FlowvaeError, match=r"67 of test \(1 of 70"):
        measure_surgery(*pair(), outlying()).metrics("test", {})


@pytest.mark.parametrize("part", ["model", "guide"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_weights_that_are_not_finite_are_named(part: str, value: float) -> None:
    both = pair()
    name, parameter = next(getattr(both, part).named_parameters())
    with torch.no_grad():
        parameter.view(-1)[0] = value
    with pytest.raises(FlowvaeError, match=re.escape(f"{part}.{name} holds {value}")):
        EvaluationContext(*both, PLANE, "test", 30, 0, {})


def test_a_nan_weight_is_the_cause_of_a_nan_measure() -> None:
    model, guide = pair()
    with torch.no_grad():
        model.decoder[0].weight[0, 0] = NAN
    with pytest.raises(FlowvaeError, match=r"x\[0\].*model\.decoder\.0\.weight holds nan"):
        measure_likelihoods(model, guide, PLANE.test, 30)


@pytest.mark.parametrize(("value", "se"), [(NAN, None), (INF, 1.0), (1.0, NAN), (-INF, -INF)])
def test_no_metric_holds_what_json_does_not(value: float, se: float | None, tmp_path: Path) -> None:
    with pytest.raises(FlowvaeError, match=r"nll.*test.*(nan|inf)"):
        Metric("nll", value, se, "nats", "test", {})
    good = Metric("nll", 1.0, 0.5, "nats", "test", {"is": "this"})
    with pytest.raises(ValueError, match="JSON"):
        write_metrics(tmp_path / "metrics.json", [replace(good, protocol={"is": INF})])
    assert not (tmp_path / "metrics.json").exists()
    write_metrics(tmp_path / "metrics.json", [good])
    json.loads((tmp_path / "metrics.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert read_metrics(tmp_path / "metrics.json") == [good]


def test_the_datum_of_a_mean_is_named() -> None:
    with pytest.raises(FlowvaeError, match=r"elbo: -inf for .* 2 of valid \(2 of 4"):
        mean_metric("elbo", torch.tensor([0.0, 1.0, -INF, NAN]), "nats", "valid", {})


def test_one_temperature_has_no_acceptance() -> None:
    names = {m.name for m in measure_ais(*pair(), PLANE.test[:3], AnnealedHMC(2, 1)).metrics("test", {})}
    assert "nll_ais" in names
    assert "ais_acceptance" not in names


@pytest.mark.parametrize(
    ("pareto_k", "effective", "trusted"),
    [
        ([0.1, 0.2, 0.3], [100.0] * 3, True),
        ([0.1, 0.2, 0.8], [100.0] * 3, False),
        ([-INF, -INF], [1000.0] * 2, True),
        ([INF, INF], [1.0] * 2, False),
        ([NAN, NAN], [11.0, 12.0], True),
        ([NAN, NAN], [2.0, 3.0], False),
        ([0.1] * 19 + [0.9], [100.0] * 20, True),  # k̂ is noisy: 5 % may be above
    ],
)
def test_weights_are_judged_by_k_or_by_effective_draws(
    pareto_k: list[float], effective: list[float], trusted: bool
) -> None:
    k, draws = torch.tensor(pareto_k, dtype=torch.float64), torch.tensor(effective)
    caution = distrust(draws, k)
    assert (caution is None) == trusted
    zeros = torch.zeros(len(k))
    metrics = likelihood_metrics(Likelihoods(zeros, zeros, zeros, draws, k), 2, True, "test", {})
    for metric in metrics:
        weighted = metric.name.startswith(("nll", "bits"))
        assert metric.caution == (caution if weighted else None)
        assert ("not to be trusted" in str(metric)) == (weighted and not trusted)
    if not trusted:
        assert f"{draws.mean().item():.3g} effective draws" in str(metrics[3])


def test_a_caution_survives_its_file_and_older_files_have_none(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    metrics = [
        Metric("nll", 1.0, None, "nats", "test", {}, "not to be trusted: why"),
        Metric("kl", 1.0, None, "n", "t", {}),
    ]
    write_metrics(file, metrics)
    assert read_metrics(file) == metrics
    assert Metric(name="kl", value=1.0, se=None, unit="n", split="t", protocol={}).caution is None


def test_an_untrained_guide_is_not_trusted_and_the_exact_one_is() -> None:
    digits = Digits().load(0)
    untrained = Experiment(latent=8, encoder=MLP((8,)), decoder=MLP((8,))).build(digits)
    with torch.no_grad():
        untrained.guide.head.loc.bias.fill_(2.0)
    nll = {
        m.name: m for m in likelihood_metrics(measure_likelihoods(*untrained, digits.test[:20], 200), 64, True, "t", {})
    }
    assert "not to be trusted" in str(nll["nll"])
    k, exact = torch.full((20,), -INF, dtype=torch.float64), torch.full((20,), 200.0)
    assert distrust(exact, k) is None


def test_bounds_and_chains_say_it_too() -> None:
    far = 30 * torch.randn(200, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ais = {m.name: m for m in AIS(far, torch.ones(12), AnnealedHMC(200, 2)).metrics("test", {})}
    assert "not to be trusted" in str(ais["nll_ais"])
    near = {m.name: m for m in AIS(far / 1000, torch.ones(12), AnnealedHMC(200, 2)).metrics("test", {})}
    assert near["nll_ais"].caution is None
    bound, k = torch.zeros(2, 12, dtype=torch.float64), torch.full((12,), 0.9, dtype=torch.float64)
    iwae = {m.name: m for m in IWAE((1, 200), bound, bound, torch.full((12,), 99.0), k, 200).metrics("test", {})}
    assert iwae["iwae_1"].caution is None
    assert "not to be trusted" in str(iwae["iwae_200"])
    nats = torch.zeros(12)
    _, bits = flow_metrics(FlowLikelihoods(nats, nats, 100, torch.full((12,), 1.5)), 4, True, "test", {})
    assert "1.5 effective draws" in str(bits)
    gaps = measure_gaps(*pair(), PLANE.test[:3], steps=1, draws=5, tempering=AnnealedHMC(2, 2))
    by_name = {m.name: m for m in gaps.metrics("test", {})}
    assert by_name["approximation_gap"].caution == by_name["inference_gap"].caution == gaps.evidence.caution
    assert by_name["amortization_gap"].caution is None


@pytest.mark.parametrize(
    ("each", "units", "said"), [(1.0, 100, "2 min"), (0.5, 80, "40 s"), (0.5, 40, None), (6.0, 6, "36 s")]
)
def test_long_work_says_how_long_before_it_is_done(
    each: float, units: int, said: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: clock[0])
    lines = []
    with bar("work", "unit", units, announce=True) as work:
        for _ in range(units):
            clock[0] += each
            work.update()
            lines.append("takes about" in capsys.readouterr().err)
    assert sum(lines) == (said is not None)
    if said is not None:
        assert lines.index(True) <= max(1, 3 / each)


def test_the_line_names_work_and_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 10_000, 3))
    monkeypatch.setattr(progress, "perf_counter", lambda: float(next(clock)))
    measure_likelihoods(*pair(), PLANE.test[:3], 5000, progress=True)
    err = capsys.readouterr().err
    assert re.search(r"5000 draws.*60 s", err)
    measure_likelihoods(*pair(), PLANE.test[:3], 5000)
    assert "takes about" not in capsys.readouterr().err


@pytest.mark.parametrize(("data", "draws"), [(1, 1), (64, 250), (65, 251), (200, 1000), (3, 249)])
def test_ticks_are_as_many_as_parts(data: int, draws: int) -> None:
    done = []
    x = PLANE.test.repeat(3, 1)[:data]
    list(importance_draws(*pair(), x, draws, 0, tick=lambda: done.append(1)))
    assert len(done) == parts_of(data, draws)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: measure_likelihoods(*pair(), x, 10**12),
        lambda x: measure_iwae(*pair(), x, (1,), draws=10**12),
        lambda x: draw_codes(pair().guide, x, 10**12, 0),
        lambda x: measure_surgery(*pair(), x, draws=10**12),
        lambda x: measure_ais(*pair(), x, AnnealedHMC(chains=10**12, temperatures=2)),
        lambda x: schedule(10**12),
        lambda x: check_draws(10**12, x, 2),
    ],
    ids=["likelihoods", "iwae", "codes", "surgery", "chains", "temperatures", "check"],
)
def test_what_no_memory_holds_is_refused_with_its_bytes(call: Any) -> None:
    with pytest.raises(FlowvaeError, match=r"(draws|chains|temperatures) = 1000000000000.* [TP]B"):
        call(PLANE.test)
