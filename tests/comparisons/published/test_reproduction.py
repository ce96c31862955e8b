"""A row says what its figure depends on, never compares two protocols, and is the same however it was interrupted."""

from __future__ import annotations

import getpass
import json
import math
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowvae import FlowvaeError, load
from flowvae.cli.command import main
from flowvae.comparisons.published import (
    RECIPES,
    Protocol,
    Published,
    Recipe,
    Row,
    read_results,
    register,
    reproduce,
    results,
)
from flowvae.comparisons.published.data_sets import LAROCHELLE
from flowvae.comparisons.published.provenance import Provenance, hash_of_sources
from flowvae.comparisons.published.row import format_row, make_row
from flowvae.data.dataset import SPLITS
from flowvae.data.published import static_mnist

TRAINING = {"epochs": 3, "kl_warmup": 1, "batch_size": 20, "device": "cpu"}
NETWORK = {"family": "mlp", "hidden_features": [8]}


@pytest.fixture(autouse=True)
def _same_recipes() -> Iterator[None]:
    before = dict(RECIPES)
    yield
    RECIPES.clear()
    RECIPES.update(before)


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take longer than such trainings."""
    monkeypatch.setattr("flowvae.comparisons.published.reproduction.draw_figures", lambda *_: [])


@pytest.fixture
def coins(tmp_path: Path) -> Path:
    """Three splits of tosses of four coins."""
    tosses = np.random.default_rng(0).integers(0, 2, (80, 4))
    np.savez(tmp_path / "coins.npz", train=tosses[:40], valid=tosses[40:60], test=tosses[60:])
    return tmp_path / "coins.npz"


def recipe(**changes: Any) -> Recipe:
    settings = {
        "name": "coins",
        "title": "N(0, I)",
        "source": "Nobody (1900), Coins",
        "published": (Published(2.8, "N(0, I)", "†", 0.1), Published(2.7, "a better prior", "‡")),
        "protocol": Protocol("coins", "none", 20, draws=10),
        "experiment": {
            "latent": 2,
            "encoder": NETWORK,
            "decoder": NETWORK,
            "data": {"family": "arrays", "path": "nowhere.npz", "likelihood": "bernoulli"},
            "inference": TRAINING,
        },
        "files": "coins.npz, at --data-path",
        "seeds": (0, 3),
    }
    return Recipe(**(settings | changes))


def run(coins: Path, out: Path, one: Recipe | None = None, **how: Any) -> Any:
    return reproduce(one or recipe(), out, path=coins, progress=False, **how)


def test_a_row_is_made_of_the_metrics_of_the_runs(coins: Path, tmp_path: Path) -> None:
    found = run(coins, tmp_path / "out", by="me")
    row = found.row
    runs = {
        load(place).experiment.seed: load(place) for place in (tmp_path / "out" / "cells").iterdir() if place.is_dir()
    }
    assert runs.keys() == {0, 3}
    metrics = [runs[seed].metric("nll") for seed in (0, 3)]
    values = [metric.value for metric in metrics]
    assert row.values == tuple(values)
    assert row.value == pytest.approx(np.mean(values))
    assert row.se_seeds == pytest.approx(abs(values[0] - values[1]) / 2)  # of two: |a − b| / √2 / √2
    assert row.se_data == pytest.approx(np.mean([metric.se for metric in metrics]))
    assert (row.seeds, row.draws, row.split, row.rows, row.unit, row.by) == ((0, 3), 10, "test", 20, "nats", "me")
    assert row.epochs == tuple(len(runs[seed].history) for seed in (0, 3))
    assert row.hours == pytest.approx(sum(r.history["seconds"].sum() for r in runs.values()) / 3600)
    assert row.not_comparable == ()
    assert row.trial == ""
    assert [one["sha256"] for one in row.data] == [runs[seed].identity["sha256"] for seed in (0, 3)]
    assert Row.from_dict(json.loads((found.directory / "row.json").read_text())) == row
    text = (found.directory / "row.md").read_text()
    assert format_row(row) in text
    assert f"{row.value - 2.8:+.2f} nats" in text
    assert max(map(len, text.splitlines())) <= 100
    for said in ("2.80 ± 0.10 †", "2.70 ‡", "recalled", "K = 10", "20 test images", row.command, "Nobody (1900)"):
        assert said in " ".join(text.split())


def test_a_row_names_code_and_machine_and_no_person_or_place(coins: Path, tmp_path: Path) -> None:
    row = run(coins, tmp_path / "out", seeds=(0,)).row
    assert row.se_seeds is None
    (provenance,) = row.provenance
    assert provenance == Provenance.here("cpu", 1).as_dict()
    assert provenance["sources"] == hash_of_sources()
    assert provenance["cores"] >= 1
    assert re.match(r"\d", provenance["versions"]["torch"])
    text = json.dumps(asdict(row))
    for private in (str(tmp_path), socket.gethostname(), f"/{getpass.getuser()}", str(Path.home()) + "/"):
        assert private not in text
    assert row.command == "flowvae reproduce coins --seeds 0 --data-path PATH"


def test_the_code_has_a_hash_of_its_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import flowvae

    (tmp_path / "a.py").write_text("one = 1\n")
    monkeypatch.setattr(flowvae, "__path__", [str(tmp_path)])
    before = hash_of_sources()
    assert hash_of_sources() == before
    (tmp_path / "notes.txt").write_text("not a source")
    assert hash_of_sources() == before
    (tmp_path / "a.py").write_text("one = 2\n")
    assert hash_of_sources() != before


def test_finished_seeds_are_kept_and_their_machine_with_them(
    coins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(coins, tmp_path / "out", seeds=(0,)).row
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "cells").rglob("*.safetensors")}
    here = Provenance.here("cpu", 1)
    monkeypatch.setattr(Provenance, "here", classmethod(lambda *_: replace(here, processor="another machine")))
    both = run(coins, tmp_path / "out", seeds=(0, 3)).row
    assert both.values[0] == first.values[0]
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    assert [one["processor"] for one in both.provenance] == [here.processor, "another machine"]
    again = run(coins, tmp_path / "out", seeds=(0,)).row
    assert again.provenance == first.provenance  # it was not trained here
    assert replace(again, date="") == replace(first, date="")


def test_an_interrupted_seed_goes_on(coins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(coins, tmp_path / "whole", seeds=(0,)).row

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flowvae.experiments.train.write_table", stop)  # after the training, before its measures
        with pytest.raises(KeyboardInterrupt):
            run(coins, tmp_path / "out", seeds=(0,))
    row = run(coins, tmp_path / "out", seeds=(0,)).row
    assert row.values == whole.values
    assert row.epochs == whole.epochs


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        (Protocol("coins", "dynamic", 20, draws=10), ["none", "coins"]),
        (Protocol("coins", "none", 10_000, draws=10), ["20", "10000"]),
        (Protocol("coins", "none", 20, draws=5000), ["K = 10", "K = 5000"]),
    ],
    ids=["data", "size", "draws"],
)
def test_figures_of_two_protocols_are_not_compared(
    protocol: Protocol, said: list[str], coins: Path, tmp_path: Path
) -> None:
    row = run(coins, tmp_path / "out", recipe(protocol=protocol), seeds=(0,), draws=10).row
    (reason,) = [one for one in row.not_comparable if "trial" not in one]
    assert all(value in reason for value in said)
    text = " ".join(format_row(row).split())
    assert f"not comparable: {reason}" in text
    assert f"{row.value - 2.8:+.2f} nats" not in text


def test_a_recipe_that_can_never_be_compared(coins: Path, tmp_path: Path) -> None:
    row = run(coins, tmp_path / "out", recipe(unlike=("other images",)), seeds=(0,)).row
    assert row.not_comparable == ("other images",)


def test_validation_images_in_place_of_test_images_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_mnist, "CHECKSUMS", dict.fromkeys(SPLITS, ""))
    monkeypatch.setattr(static_mnist, "_checksum", lambda x: "")
    bits = np.packbits(np.random.default_rng(0).integers(0, 2, (60, 784)), axis=1)
    np.savez(tmp_path / "bits.npz", train=bits, valid=bits[:20])
    one = recipe(protocol=Protocol("digits", "fixed", 20, draws=10))
    one = replace(one, experiment={**one.experiment, "data": {"family": "static-mnist"}})
    row = run(tmp_path / "bits.npz", tmp_path / "out", one, seeds=(0,)).row
    assert row.split == "valid"
    (reason,) = row.not_comparable
    assert "valid" in reason
    np.savez(tmp_path / "bits.npz", train=bits, valid=bits[:20], test=bits[20:40])
    row = run(tmp_path / "bits.npz", tmp_path / "out2", one, seeds=(0,)).row
    assert (row.split, row.not_comparable) == ("test", ())


def test_other_bits_than_the_published_ones_are_not_compared(tmp_path: Path) -> None:
    bits = np.packbits(np.random.default_rng(0).integers(0, 2, (60, 784)), axis=1)
    np.savez(tmp_path / "bits.npz", train=bits, valid=bits[:20], test=bits[20:40])
    one = recipe(protocol=Protocol("digits", LAROCHELLE, 20, draws=10))
    one = replace(one, experiment={**one.experiment, "data": {"family": "static-mnist"}})
    (reason,) = run(tmp_path / "bits.npz", tmp_path / "out", one, seeds=(0,)).row.not_comparable
    assert "not the published" in reason


@pytest.mark.parametrize(
    ("measure", "unit", "scale"), [("bound", "nats", 1), ("bound-bits", "bits/dim", 4 * math.log(2))]
)
def test_a_bound_is_the_negative_elbo_whatever_the_draws(
    measure: str, unit: str, scale: float, coins: Path, tmp_path: Path
) -> None:
    one = recipe(protocol=Protocol("coins", "none", 20, measure, draws=7))
    row = run(coins, tmp_path / "out", one, seeds=(0,)).row
    (place,) = [place for place in (tmp_path / "out" / "cells").iterdir() if place.is_dir()]
    elbo = load(place).metric("elbo")
    assert elbo.protocol["draws"] == 7
    assert row.value == pytest.approx(-elbo.value / scale)
    assert row.se_data == pytest.approx((elbo.se or 0) / scale)
    assert row.unit == unit
    assert row.not_comparable == ()


def test_a_trial_says_so_and_is_no_result(coins: Path, tmp_path: Path, table: Path) -> None:
    found = run(coins, tmp_path / "out", epochs=2, draws=5)
    assert found.row.epochs == (2, 2)
    assert "2 epochs" in found.row.trial
    assert "K = 5" in found.row.trial
    assert any("trial" in reason for reason in found.row.not_comparable)
    assert found.directory.name == "coins-trial"
    assert "--epochs 2" in found.row.command
    with pytest.raises(FlowvaeError, match="trial"):
        run(coins, tmp_path / "never", epochs=2, record_row=True)
    assert not (tmp_path / "never").exists()
    with pytest.raises(FlowvaeError, match="trial"):
        results.record(found.row)
    assert not table.exists()


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of results of this test alone."""
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(results, "checkout", lambda: tmp_path)
    return tmp_path / "results.json"


def test_a_result_is_recorded_once(coins: Path, tmp_path: Path, table: Path) -> None:
    assert read_results() == []
    first = run(coins, tmp_path / "out", record_row=True)
    assert first.recorded
    assert read_results() == [first.row]
    assert not run(coins, tmp_path / "out", record_row=True, by="somebody else").recorded
    other = run(coins, tmp_path / "out", seeds=(0,), record_row=True)
    assert other.recorded
    assert read_results() == [first.row, other.row]
    assert str(tmp_path) not in table.read_text()


@pytest.mark.parametrize("content", ["{}", "[3]", "[", '[{"recipe": 3}]', "NaN"])
def test_a_damaged_table_is_told_before_the_training(content: str, coins: Path, tmp_path: Path, table: Path) -> None:
    table.write_text(content)
    with pytest.raises(FlowvaeError, match=re.escape(table.name)):
        run(coins, tmp_path / "out", record_row=True)
    assert not (tmp_path / "out").exists()


def test_results_are_recorded_in_a_checkout_alone(
    coins: Path, tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "checkout", lambda: None)
    with pytest.raises(FlowvaeError, match="checkout"):
        run(coins, tmp_path / "out", record_row=True)
    assert not (tmp_path / "out").exists()


def test_the_committed_results_can_be_read() -> None:
    for row in read_results():
        assert row.recipe in RECIPES
        assert row.trial == ""


def test_a_seed_that_fails_costs_the_others_nothing(coins: Path, tmp_path: Path, table: Path) -> None:
    bad = {**recipe().experiment, "inference": {**TRAINING, "learning_rate": 1e18, "clip": None}}
    with pytest.raises(FlowvaeError, match="TrainingStopped"):
        run(coins, tmp_path / "out", recipe(experiment=bad))
    assert not (tmp_path / "out" / "coins" / "row.json").exists()
    good = run(coins, tmp_path / "out")
    assert good.failed == {}
    cell = next(place for place in (tmp_path / "out" / "cells").iterdir() if (place / "metrics.json").exists())
    seed = load(cell).experiment.seed
    for file in cell.iterdir():
        file.unlink()
    cell.rmdir()
    cell.touch()
    cell.chmod(0o400)

    def fail(*_: Any, **__: Any) -> None:
        raise FlowvaeError("nothing works today")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flowvae.experiments.train.fit", fail)
        with pytest.warns(UserWarning, match="kept as"):
            found = run(coins, tmp_path / "out", record_row=True)
    assert found.failed.keys() == {seed}
    assert "nothing works today" in found.failed[seed]
    assert set(found.row.seeds) == {0, 3} - {seed}
    assert not found.recorded
    assert not table.exists()


@pytest.mark.parametrize(
    ("how", "values"),
    [
        ({"seeds": ()}, ["seeds"]),
        ({"seeds": (1, 1)}, ["(1, 1)"]),
        ({"seeds": (-1,)}, ["-1"]),
        ({"epochs": 0}, ["epochs = 0"]),
        ({"draws": 0}, ["draws = 0"]),
        ({"jobs": 0}, ["jobs = 0"]),
        ({"threads": 0}, ["threads = 0"]),
        ({"by": "a\nb"}, ["a\\nb"]),
        ({"path": "nowhere.npz"}, ["nowhere.npz", "coins.npz, at --data-path"]),
    ],
    ids=["none", "twice", "negative", "epochs", "draws", "jobs", "threads", "by", "path"],
)
def test_mistakes_are_told_before_any_training(
    how: dict[str, Any], values: list[str], coins: Path, tmp_path: Path
) -> None:
    with pytest.raises(FlowvaeError) as info:
        reproduce(recipe(), tmp_path / "out", **{"path": coins, "progress": False, **how})
    assert all(value in str(info.value) for value in values)
    assert str(info.value).count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_on_the_command_line(
    coins: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowvae.cli.reproducing.read_results", read_results)
    register([recipe()])
    line = ["reproduce", "coins", "--data.path", str(coins), "--out", str(tmp_path / "out"), "--by", "me", "--record"]
    assert main(line) == 0
    printed = capsys.readouterr().out
    row = Row.from_dict(json.loads((tmp_path / "out" / "coins" / "row.json").read_text()))
    assert format_row(row) in printed
    assert main([*line, "--json"]) == 0
    captured = capsys.readouterr()
    assert Row.from_dict(json.loads(captured.out)) == row
    assert "already" in captured.err
    assert main(["reproduce", "--list"]) == 0
    listed = capsys.readouterr().out
    assert max(map(len, listed.splitlines())) <= 100
    assert all(name in listed for name in RECIPES)
    assert row.figure in " ".join(listed.split())
    assert "by me" in " ".join(listed.split())
    for meaning in ("† recalled", "‡ found"):
        assert meaning in listed
    assert main(["reproduce", "--list", "coins", "--json"]) == 0
    (plain,) = json.loads(capsys.readouterr().out)
    assert plain["results"] == [json.loads(json.dumps(asdict(row)))]
    assert plain["protocol"] == str(recipe().protocol)
    assert main(["reproduce"]) == 2
    assert main(["reproduce", "coin"]) == 2
    assert "coins" in capsys.readouterr().err


def test_a_list_has_a_table_for_each_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list"]) == 0
    blocks = capsys.readouterr().out.split("-" * 100)
    protocols = {str(one.protocol) for one in RECIPES.values()}
    for block in blocks[:-1]:
        text = " ".join(block.split())
        (own,) = [protocol for protocol in protocols if text.startswith(f"{protocol}.")]
        named = [one for one in RECIPES.values() if re.search(rf"(?<!\S){one.name}(?!\S)", text)]
        assert named
        assert {str(one.protocol) for one in named} == {own}


def test_processes_and_threads_are_those_of_the_grid(
    coins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def grid(*_: Any, **how: Any) -> Any:
        asked.update(how)
        raise FlowvaeError("asked")

    monkeypatch.setattr("flowvae.comparisons.published.reproduction.run_grid", grid)
    with pytest.raises(FlowvaeError, match="asked"):
        run(coins, tmp_path / "out", jobs=2, threads=3)
    assert (asked["jobs"], asked["threads"], asked["draws"]) == (2, 3, 10)
    (sessions,) = {
        tuple(one["threads"] for one in every)
        for every in json.loads((tmp_path / "out" / "coins" / "sessions.json").read_text()).values()
    }
    assert sessions == (3,)


def test_cautions_stand_with_their_seed(coins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(coins, tmp_path / "out")
    runs = {
        load(place).experiment.seed: load(place) for place in (tmp_path / "out" / "cells").iterdir() if place.is_dir()
    }
    metric: Callable[..., Any] = type(runs[0]).metric
    monkeypatch.setattr(type(runs[0]), "metric", lambda self, *names: replace(metric(self, *names), caution="far off"))
    row = make_row(recipe(), {3: runs[3]}, on_valid=False, provenance=[], command="none")
    assert row.cautions == ("seed 3: far off",)
    assert "far off" in format_row(row)
    assert found.row.figure == format_row(found.row).partition("here ")[2].strip().partition("  ")[0]


def test_the_data_set_is_asked_to_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_nothing(self: static_mnist.StaticMNIST, seed: int) -> None:
        asked.append(self.download)
        raise FlowvaeError("no network")

    monkeypatch.setattr(static_mnist.StaticMNIST, "load", load_nothing)
    for more in ((), ("--data.download",), ("--download",)):
        main(["reproduce", "static-mnist-normal", "--out", str(tmp_path), *more])
    assert asked == [False, True, True]


def test_data_that_cannot_be_downloaded_are_named(coins: Path, tmp_path: Path) -> None:
    with pytest.raises(FlowvaeError, match=r"download.*arrays"):
        run(coins, tmp_path / "out", download=True)
