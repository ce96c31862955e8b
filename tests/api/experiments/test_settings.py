"""Settings from anywhere: an experiment that is read back as it is, or one line that says what is wrong."""

from __future__ import annotations

import contextlib
import io
import shlex
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

from flowvae import (
    IAF,
    MAF,
    NSF,
    Arrays,
    Digits,
    Experiment,
    FlowDecoder,
    FlowGuide,
    FlowvaeError,
    FullRank,
    Gaussian,
    Inverse,
    Mixture,
    SecondStage,
    SemiAmortized,
    StandardNormal,
    Training,
    load,
)
from flowvae.cli.command import main
from flowvae.core.errors import shown
from flowvae.core.parts import LikelihoodSpec
from flowvae.core.yaml_reader import read_yaml
from flowvae.experiments.serialization import to_plain
from flowvae.models import BernoulliLikelihood
from flowvae.networks import MLP

LONGEST = 2000  # characters of an error
QUICK = Training(epochs=1, device="cpu", compile="none", validation_draws=1)

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9)
)
# what YAML can hold and settings cannot; every one is refused
HOSTILE = {
    "alias bomb": f"{BOMB}latent: *a9",
    "alias bomb as a family": f"{BOMB}prior: *a9",
    "recursive alias": "prior: &p [*p]",
    "merge key": "x: &x {latent: 3}\n<<: *x",
    "merge key without an alias": "<<: {latent: 3}",
    "whole number as a key": "1: 3",
    "boolean as a key": "true: 3",
    "null as a key": "~: 3",
    "list as a key": "? [a]\n: 3",
    "key of YAML 1.1's booleans": "on: 3",
    "key twice": "latent: 3\nseed: 1\nlatent: 4",
    "key twice inside": "inference: {epochs: 1, epochs: 2}",
    "not a whole number": "latent: !!int abc",
    "a tag of Python": "!!python/object/apply:os.system ['true']",
    "a tag of one's own": "prior: !flow {family: maf}",
    "a set": "encoder: {hidden_features: !!set {8, 9}}",
    "binary": "prior: !!binary aGVsbG8=",
    "octal or decimal": "latent: 010",
    "base 60": "latent: 1:30",
    "underscore": "latent: 1_0",
    "date": "latent: 2001-01-01",
    "yes": "encoder: {gated: yes}",
    "many digits": f"latent: {'9' * 5000}",
    "many digits of a real number": f"inference: {{learning_rate: 0.{'1' * 5000}}}",
    "many bits": f"latent: 0x{'f' * 90}",
    "deep list": f"prior: {'[' * 5000}",
    "deep blocks": "- " * 5000,
    "deep mapping": "{a: " * 3000,
    "not a number": "inference: {learning_rate: .nan}",
    "infinite": "inference: {learning_rate: .inf}",
    "minus infinite": "inference: {weight_decay: -.inf}",
    "text with an exponent": "inference: {learning_rate: 1e-3}",
    "huge whole number for a real one": f"inference: {{clip: 1{'0' * 99}0}}",
    "no device": "inference: {device: null}",
    "devices": "inference: {device: [cpu]}",
    "device without numbers": "inference: {device: meta}",
    "device by number": "inference: {device: 0}",
    "list for a part": "prior: [maf]",
    "family as a list": "prior: {family: [maf]}",
    "family as a number": "prior: {family: 3}",
    "unknown family": f"prior: {'x' * 5000}",
    "unknown setting": f"prior: {{family: maf, {'x' * 900}: 3}}",
    "number for a part": "encoder: 3",
    "null for a part": "prior: null",
    "a list for a path": "data: {family: arrays, path: [a], likelihood: bernoulli}",
    "likelihood that is none": "data: {family: arrays, path: a.npz, likelihood: [bernoulli]}",
    "likelihood with many digits": f"data: {{family: arrays, path: a.npz, likelihood: 'binomial:{'9' * 5000}'}}",
    "thousands of layers": f"encoder: {{hidden_features: [{', '.join(['8'] * 5000)}]}}",
    "a billion transforms": "prior: {family: maf, transforms: 1000000000}",
    "second stage of a number": "second_stage: 3",
    "list": "[1, 2]",
    "text": "latent",
    "nothing": "",
    "two documents": "latent: 3\n---\nlatent: 4",
    "control character": "latent: \x01",
    "unfinished": "latent: [3",
    "colon": "a: b: c",
    "large": "a" * 200_000,
}


def outcome(call: Callable[[], Any]) -> Any:
    """What comes out: the value, or the text of the one error that a user may see."""
    try:
        return call()
    except FlowvaeError as error:
        text = str(error)
        assert len(text) < LONGEST, text
        assert text.isprintable(), text  # and so one line
        return text


@pytest.mark.parametrize("document", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_document_is_refused_in_one_line(document: str, tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(document)
    found = outcome(lambda: Experiment.from_yaml(file))
    assert isinstance(found, str)
    assert str(file) in found


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("latent: 3".encode("utf-16"), "UTF-8"),
        (b"\x80\x81", "UTF-8"),
        (b"\x00\x01latent: 3", "not plain YAML"),
    ],
    ids=["UTF-16", "binary", "NUL"],
)
def test_a_file_of_another_kind_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_bytes(content)
    assert says in outcome(lambda: Experiment.from_yaml(tmp_path / "e.yaml"))
    assert "is a directory" in outcome(lambda: Experiment.from_yaml(tmp_path))
    assert "no such file" in outcome(lambda: Experiment.from_yaml(tmp_path / "none.yaml"))


def test_plain_values_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(
        "\ufeffa: 12\nb: -3\nc: 0x1F\nd: 1.5e-3\ne: .5\nf: true\ng: ~\nh:\ni: yes\nj: 1:30\nk: 2001-01-01\n"
        "l: '010'\nm: [1, {n: 2.}]\n"
    )
    assert read_yaml(file) == {
        "a": 12,
        "b": -3,
        "c": 31,
        "d": 1.5e-3,
        "e": 0.5,
        "f": True,
        "g": None,
        "h": None,
        "i": "yes",
        "j": "1:30",
        "k": "2001-01-01",
        "l": "010",
        "m": [1, {"n": 2.0}],
    }


# with what YAML has a meaning for
text = st.text("aefnoxyNY0189._-+:,#'\"[]{}&*!|>%@~<=? \n\t\r\x07\x85é☃\u2028😀", max_size=12)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


@seed(0)
@settings(max_examples=80, deadline=2000, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(text, plain, max_size=5))
def test_what_is_written_is_read_back(values: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(yaml.safe_dump(values))
    found = outcome(lambda: read_yaml(file))
    if isinstance(found, dict):
        assert yaml.safe_dump(found) == yaml.safe_dump(values)  # NaN is not equal to itself
    else:
        assert "a number of" in found  # with more digits than a setting has


NAMES = ("latent", "seed", "encoder", "decoder", "inference", "data", "prior", "guide", "second_stage")
INNER = ("family", "transforms", "hidden_features", "bins", "base", "context", "flow", "network", "epochs", "device")
INNER += ("learning_rate", "clip", "compile", "kl_warmup", "prior", "inference", "fine_tune", "path", "likelihood")
words = st.sampled_from(["maf", "inverse-nsf", "gaussian", "normal", "digits", "arrays", "auto", "bernoulli", "none"])
values = words | st.integers(-1, 3) | st.sampled_from([0.5, [8], [2, 2], True, None, 10**30]) | plain
parts = words | st.dictionaries(st.sampled_from(INNER), values, max_size=4) | values


@seed(0)
@settings(max_examples=200, deadline=2000, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=st.dictionaries(st.sampled_from(NAMES) | text, parts, max_size=4), data=st.data())
def test_random_settings_are_an_experiment_or_an_error(
    document: dict[Any, Any], data: st.DataObject, tmp_path: Path
) -> None:
    if data.draw(st.booleans()):  # in memory keys may be anything
        document = {**document, data.draw(st.integers() | st.none() | st.tuples(st.integers())): 3}
    found = outcome(lambda: Experiment.from_dict(document))
    if isinstance(found, Experiment):
        assert Experiment.from_dict(found.to_dict()) == found
        found.to_yaml(tmp_path / "e.yaml")
        assert Experiment.from_yaml(tmp_path / "e.yaml") == found


# an own part of every kind: it can train, and could not be read back
@dataclass(frozen=True)
class OwnMLP(MLP):
    pass


@dataclass(frozen=True)
class OwnDecoder(FlowDecoder):
    pass


@dataclass(frozen=True)
class OwnFlow(MAF):
    pass


@dataclass(frozen=True)
class OwnFlowGuide(FlowGuide[MAF]):
    pass


@dataclass(frozen=True)
class OwnInverse(Inverse[MAF]):
    pass


@dataclass(frozen=True)
class OwnMixture(Mixture):
    pass


@dataclass(frozen=True)
class OwnGuide(Gaussian):
    pass


@dataclass(frozen=True)
class OwnDigits(Digits):
    pass


@dataclass(frozen=True)
class OwnInference(Training):
    pass


@dataclass(frozen=True)
class OwnStage(SecondStage):
    pass


@dataclass(frozen=True)
class OwnExperiment(Experiment):
    pass


@dataclass(frozen=True)
class OwnBernoulli(BernoulliLikelihood):
    pass


class OwnHalves(LikelihoodSpec):
    discrete = True
    support = "0 or 1/2"

    def build(self, train: Tensor) -> Any:
        return BernoulliLikelihood().build(train)

    def violations(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x, dtype=torch.bool)

    def __str__(self) -> str:
        return "halves"


base = Experiment(latent=2, inference=QUICK)
OWN = {
    "encoder": replace(base, encoder=OwnMLP()),
    "decoder": replace(base, decoder=OwnMLP()),
    "flow decoder": replace(base, decoder=OwnDecoder(MAF())),
    "network of a flow decoder": replace(base, decoder=FlowDecoder(Inverse(MAF()), OwnMLP())),
    "flow in a decoder": replace(base, decoder=FlowDecoder(Inverse(OwnFlow()))),
    "flow as prior": replace(base, prior=OwnFlow()),
    "inverse as prior": replace(base, prior=OwnInverse(MAF())),
    "mixture": replace(base, prior=OwnMixture()),
    "guide": replace(base, guide=OwnGuide()),
    "flow guide": replace(base, guide=OwnFlowGuide(MAF())),
    "flow of a guide": replace(base, guide=FlowGuide(OwnFlow())),
    "data": replace(base, data=OwnDigits()),
    "likelihood": replace(base, data=Arrays("x.npz", OwnBernoulli())),  # type: ignore[arg-type]
    "likelihood without a name": replace(base, data=Arrays("x.npz", OwnHalves())),  # type: ignore[arg-type]
    "inference": replace(base, inference=OwnInference()),
    "second stage": replace(base, second_stage=OwnStage(MAF())),
    "prior of a second stage": replace(base, second_stage=SecondStage(OwnFlow())),
    "inference of a second stage": replace(base, second_stage=SecondStage(MAF(), OwnInference())),
    "experiment": OwnExperiment(),
}


@pytest.mark.parametrize("experiment", OWN.values(), ids=OWN.keys())
def test_a_part_that_could_not_be_read_back_is_refused_before_training(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", train=np.random.default_rng(0).integers(0, 2, (40, 4)))
    monkeypatch.setattr("flowvae.experiments.train.fit", lambda *_, **__: pytest.fail("it trains"))
    said = outcome(lambda: experiment.run("run"))
    assert "Own" in said
    assert not Path("run").exists()
    assert "Own" in outcome(lambda: experiment.to_yaml("e.yaml"))


@pytest.mark.parametrize(
    "value", [torch.zeros(3), np.zeros(3), object(), {1, 2}, MAF, 3j], ids=lambda v: type(v).__name__
)
def test_a_value_that_is_not_plain_is_not_written(value: Any) -> None:
    assert shown(value) in outcome(lambda: to_plain((value,)))


def test_scalars_of_numpy_are_the_plain_numbers_that_they_are(tmp_path: Path) -> None:
    as_numpy = Experiment(
        latent=np.int64(3),  # type: ignore[arg-type]
        seed=np.uint8(4),  # type: ignore[arg-type]
        encoder=MLP(tuple(np.array([8, 9])), gated=np.bool_(True)),  # type: ignore[arg-type]
        inference=Training(
            learning_rate=np.float64(1e-3),
            clip=np.float32(0.5),  # type: ignore[arg-type]
            weight_decay=np.longdouble(0.25),  # type: ignore[arg-type]
            epochs=np.int32(7),  # type: ignore[arg-type]
            compile=np.str_("none"),
        ),
        prior=NSF(transforms=np.int16(3), bins=np.int64(4)),  # type: ignore[arg-type]
        guide=SemiAmortized(learning_rate=np.float16(0.5), second_order=np.bool_(False)),  # type: ignore[arg-type]
    )
    as_plain = Experiment(
        latent=3,
        seed=4,
        encoder=MLP((8, 9), gated=True),
        inference=Training(learning_rate=1e-3, clip=0.5, weight_decay=0.25, epochs=7, compile="none"),
        prior=NSF(transforms=3, bins=4),
        guide=SemiAmortized(learning_rate=0.5, second_order=False),
    )
    assert as_numpy == as_plain
    assert repr(as_numpy) == repr(as_plain)
    as_numpy.to_yaml(tmp_path / "e.yaml")
    assert Experiment.from_yaml(tmp_path / "e.yaml") == as_plain
    for wrong in (np.float64(3), np.int64(0), np.array([3]), np.nan):
        assert "latent" in outcome(lambda wrong=wrong: Experiment(latent=wrong))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Experiment(prior=MAF),  # type: ignore[arg-type]
        lambda: SecondStage(MAF),  # type: ignore[arg-type]
        lambda: FlowGuide(MAF),  # type: ignore[type-var]
        lambda: FlowDecoder(MAF),  # type: ignore[arg-type]
        lambda: Inverse(MAF),  # type: ignore[type-var]
        lambda: Experiment(guide=Gaussian),  # type: ignore[arg-type]
        lambda: Experiment(data=Digits),  # type: ignore[arg-type]
        lambda: Experiment(inference=Training),  # type: ignore[arg-type]
        lambda: Experiment(prior=StandardNormal),  # type: ignore[arg-type]
    ],
)
def test_a_class_is_not_a_part(make: Callable[[], Any]) -> None:
    assert isinstance(outcome(make), str)


LARGE = {
    "latent": Experiment(latent=10**11),
    "latent beyond addresses": Experiment(latent=2**62),
    "latent of a flow": Experiment(latent=10**5, prior=MAF()),
    "latent of a full covariance": Experiment(latent=10**4, guide=FullRank()),
    "encoder": Experiment(encoder=MLP((10**11,))),
    "decoder": Experiment(decoder=MLP((10**5, 10**5))),
    "flow": Experiment(prior=MAF(hidden_features=(10**5, 10**5))),
    "bins": Experiment(prior=NSF(bins=10**11)),
    "components": Experiment(prior=Mixture(10**11)),
    "context": Experiment(guide=FlowGuide(IAF(), context=10**11)),
    "draws of a guide": Experiment(guide=SemiAmortized(draws=2**30)),
    "particles": Experiment(inference=Training(particles=10**11)),
    "validation draws": Experiment(inference=Training(validation_draws=10**11)),
}


@pytest.mark.parametrize("experiment", LARGE.values(), ids=LARGE.keys())
def test_what_does_not_fit_into_memory_is_refused(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowvae.core.memory.memory", lambda: 1e9)
    said = outcome(lambda: experiment.run(tmp_path / "run"))
    assert "memory" in said
    assert not (tmp_path / "run").exists()


def test_memory_is_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, gradients and Adam's moments: 4 times 4 bytes a parameter."""
    parameters = 2 * 4001 * 4000 + 4001 * 64 + 9 * 4000 + 65 * 4000 + 4001 * 16
    experiment = Experiment(encoder=MLP((4000, 4000)), decoder=MLP((4000, 4000)), inference=QUICK)
    monkeypatch.setattr("flowvae.experiments.train.fit", lambda *_, **__: pytest.fail("it trains"))
    monkeypatch.setattr("flowvae.core.memory.memory", lambda: 16.0 * parameters * 0.98)
    assert "memory" in outcome(lambda: experiment.run(tmp_path / "run"))
    monkeypatch.setattr("flowvae.core.memory.memory", lambda: 16.0 * parameters * 1.02)
    with pytest.raises(pytest.fail.Exception, match="it trains"):
        experiment.run(tmp_path / "run")


def test_a_run_goes_on_with_the_draws_that_it_was_started_with(tmp_path: Path) -> None:
    small = Experiment(latent=2, encoder=MLP((4,)), decoder=MLP((4,)), inference=QUICK)
    for experiment in (small, replace(small, second_stage=SecondStage(Mixture(2), QUICK))):
        place = tmp_path / str(experiment.second_stage is None)

        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("flowvae.experiments.run.Run.evaluate", stop)
            with pytest.raises(KeyboardInterrupt):
                experiment.run(place, draws=7, progress=False, figures=False)
        experiment.run(place, resume=True, progress=False, figures=False)
        assert load(place).metric("nll").protocol["draws"] == 7
        experiment.run(place, resume=True, draws=5, progress=False, figures=False)
        assert load(place).metric("nll").protocol["draws"] == 5


NOWHERE = "evaluate nowhere"
LINES = [
    "",
    "--import",
    "nonsense",
    "'\n'",
    "x" * 3000,
    "list --latent 0",
    "list --latent -1",
    f"list --latent {10**30}",
    f"list --latent {'9' * 5000}",
    "list --latent 8 --latent 9",
    "list --json --no-json",
    "list --import .foo",
    "list --import ''",
    "list --import a/b",
    "list --import no_such_module",
    "list --import",
    "list --import --json",
    "list --import broken",
    "list --import stopped",
    "list --import x" + "y" * 3000,
    "train",
    "train --out",
    "train --out r prior:maf --prior.transforms 3 prior:nsf",
    "train --out r prior:maf prior:maf",
    "train --out r guide:iaf guide:gaussian",
    "train --out r data:digits data:pinwheel",
    "train --out r --latent 2 --latent 3",
    "train --out r --latent=2 --latent 3",
    "train --out r --inference.batch-size 2 --inference.batch_size 3",
    "train --out r guide:iaf --guide.conditioned --guide.no-conditioned",
    "train --out r --out s",
    "train --out r --config a.yaml --config b.yaml",
    "train --out r --config .",
    "train --out r --config bomb.yaml",
    "train --out r --config octal.yaml",
    "train --out r --config --overwrite",
    "train --out r --latent 010x",
    f"train --out r --latent {10**11}",
    f"train --out r --latent {10**30}",
    "train --out r --inference.learning-rate nan",
    "train --out r --inference.learning-rate inf",
    "train --out r --inference.clip -1",
    "train --out r --inference.clip nonsense",
    "train --out r --inference.device meta",
    "train --out r --inference.device ''",
    "train --out r prior:",
    "train --out r prior:mfa",
    "train --out r prior:" + "x" * 3000,
    "train --out r --prior.bins 3",
    "train --out r prior:maf --prior." + "x" * 3000 + " 3",
    f"train --out r prior:maf --prior.transforms {10**9}",
    f"train --out r prior:mixture --prior.components {10**11}",
    f"train --out r --encoder.hidden-features {10**11}",
    "train --out r --encoder.hidden-features",
    "train --out r --draws 0",
    "train --out r --draws -3",
    "train --out r --seed -1",
    f"train --out r --seed {2**32}",
    "train --out r data:arrays --data.path '' --data.likelihood bernoulli",
    "train --out r data:arrays --data.path a.npz --data.likelihood binomial:x",
    "train --out r --resume",
    "train --out '' --draws 2",
    "fit-prior",
    "fit-prior --out r",
    "fit-prior prior:maf",
    "fit-prior nowhere --out r",
    NOWHERE,
    f"{NOWHERE} --measures {'x' * 3000}",
    f"{NOWHERE} --draws 0",
    "sample nowhere --count 0",
    "sample nowhere --out a.txt",
    "compare holes --first-seed -1 --preset seconds --out c",
    f"compare holes --first-seed {2**32} --preset seconds --out c",
    f"compare holes --seeds {10**9} --out c",
    "compare holes --seeds 1 --out c",
    "compare holes --jobs 0 --preset seconds --out c",
    "compare nonsense",
    "compare holes --preset nonsense --out c",
    "compare holes --data nonsense --out c",
    "report nowhere",
    "report bomb.yaml",
]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_hostile_command_line_ends_with_a_message(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("bomb.yaml").write_text(HOSTILE["alias bomb"])
    Path("octal.yaml").write_text(HOSTILE["octal or decimal"])
    Path("broken.py").write_text("def f(:\n")
    Path("stopped.py").write_text("raise RuntimeError('two\\nlines')\n")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        status = main(shlex.split(line))
    said = err.getvalue()
    assert status in (0, 2)
    assert (status == 0) == (said == "")
    assert "Traceback" not in said
    if status:
        assert said.count("\n") == 1
        assert len(said) < LONGEST
    assert not any(Path(name).exists() for name in ("r", "s", "c"))


def test_none_is_a_word_for_no_clipping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Experiment, "run", lambda self, *_, **__: (_ for _ in ()).throw(FlowvaeError(f"{self}")))
    for word in ("none", "None"):
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            assert main(["train", "--out", str(tmp_path / "r"), "--inference.clip", word]) == 2
        assert "clip=None" in err.getvalue()


@pytest.mark.usefixtures("float64")
def test_an_experiment_follows_the_default_dtype(tmp_path: Path) -> None:
    experiment = Experiment(latent=2, prior=MAF(1, (4,)), guide=FlowGuide(IAF(1, (4,))), inference=QUICK)
    run = experiment.run(tmp_path / "run", draws=2, figures=False, progress=False)
    opened = load(run.directory)
    for part in (*run.pair, *opened.pair):
        assert {p.dtype for p in part.parameters()} == {torch.float64}
    assert np.isfinite(opened.metric("nll").value)
