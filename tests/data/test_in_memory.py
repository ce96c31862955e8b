"""Data as people have them: arrays, tensors, data frames and torch data sets."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from flowvae import MLP, Experiment, Mixture, SecondStage, Training, fit_prior, load, train
from flowvae.core.errors import FlowvaeError
from flowvae.data import Arrays, Digits, InMemory, Mapped, MappedArray, TorchSource, as_data, to_tensor
from flowvae.data.dataset import SPLITS, Dataset

RNG = np.random.default_rng(0)
BITS = RNG.integers(0, 2, (60, 6)).astype(np.uint8)
NAMES = np.array(["dog", "cat", "eel"] * 20)
SMALL: dict[str, Any] = {
    "latent": 2,
    "encoder": MLP((8,)),
    "decoder": MLP((8,)),
    "inference": Training(epochs=2, batch_size=16, device="cpu"),
}


def rows(data: Dataset) -> list[list[float]]:
    """All data points of the three splits, in sorted order."""
    return sorted(torch.cat([getattr(data, split) for split in SPLITS]).flatten(1).tolist())


def test_an_array_trains() -> None:
    run = Experiment(data=as_data(BITS, "bernoulli"), **SMALL).run(progress=False)
    assert run.encode(BITS).shape == (60, 2)
    assert run.sample(3).shape == (3, 6)


def test_a_tensor_is_an_array() -> None:
    array, tensor = as_data(BITS, "bernoulli"), as_data(torch.from_numpy(BITS), "bernoulli")
    assert array == tensor
    assert array.load(1).identity == tensor.load(1).identity
    assert rows(array.load(1)) == sorted(BITS.astype(float).tolist())


def test_missing_splits_are_those_that_a_file_would_get(tmp_path: Path) -> None:
    x = 1.7e9 + 3 * RNG.standard_normal((60, 4))  # float32 would make three values of it
    np.savez(tmp_path / "x.npz", train=x, labels=NAMES)
    file = Arrays(tmp_path / "x.npz", "gaussian").load(3)  # type: ignore[arg-type]
    data = as_data((x, NAMES), "gaussian").load(3)
    assert data.identity.sha256 == file.identity.sha256
    assert data.classes == ("cat", "dog", "eel")
    assert data.labels is not None
    assert file.labels is not None
    assert data.offset is not None
    assert file.offset is not None
    assert torch.equal(data.offset, file.offset)
    for split in SPLITS:
        assert torch.equal(getattr(data, split), getattr(file, split))
        assert torch.equal(data.labels[split], file.labels[split])
        original = data.original(getattr(data, split))
        nearest = (original[:, None] - torch.from_numpy(x)).abs().amax(-1).argmin(1)
        assert (original - torch.from_numpy(x)[nearest]).abs().max() < 1e-5  # 3e-7 in float32 beside 3
        assert [data.classes[label] for label in data.labels[split].tolist()] == NAMES[nearest].tolist()


def test_splits_as_a_triple_or_by_name() -> None:
    train_, valid, test = np.split(BITS, [30, 40])
    triple = as_data((train_, valid, test), "bernoulli").load(0)
    named = as_data({"train": train_, "test": test, "valid": valid}, "bernoulli").load(1)
    assert triple.identity.sha256 == named.identity.sha256
    assert torch.equal(triple.valid, torch.from_numpy(valid).float())
    part = as_data({"train": train_, "test": test}, "bernoulli").load(0)
    assert torch.equal(part.test, triple.test)
    assert (len(part.train), len(part.valid)) == (25, 5)
    labelled = as_data({"train": (train_, NAMES[:30]), "test": (test, NAMES[40:])}, "bernoulli")
    assert labelled == as_data(
        {"train": train_, "test": test}, "bernoulli", labels={"train": NAMES[:30], "test": NAMES[40:]}
    )
    assert labelled.load(0).class_count == 3


def test_images_keep_their_channels() -> None:
    colour = RNG.integers(0, 256, (20, 3, 4, 5), dtype=np.uint8)
    assert as_data(colour, "binomial:255").load(0).shape == (3, 4, 5)
    assert as_data(colour[:, 0], "binomial:255").load(0).shape == (1, 4, 5)
    assert as_data(colour[:, 0], "binomial:255").shape == (1, 4, 5)
    with pytest.raises(FlowvaeError, match=r"\(20, 4, 5, 3\).*\(0, 3, 1, 2\)"):
        as_data(colour.transpose(0, 2, 3, 1), "binomial:255")


FRAME = pd.DataFrame({"width": [1.5, 2.5, 4.0] * 10})


class Shapes(TorchDataset[Any]):
    """Small grey or colour images with a label, as torchvision's data sets have them."""

    classes = ("round", "square")

    def __init__(self, mode: str = "L", transform: Any = None) -> None:
        shape = (12, 4, 5, 3) if mode == "RGB" else (12, 4, 5)
        self.pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
        self.transform = transform

    def __len__(self) -> int:
        return 12

    def __getitem__(self, number: int) -> Any:
        image: Any = Image.fromarray(self.pixels[number])
        return (image if self.transform is None else self.transform(image)), number % 2


def test_a_torch_data_set_of_images() -> None:
    shapes = Shapes()
    data = as_data({"train": shapes, "valid": shapes, "test": shapes}, "binomial:255").load(0)
    assert torch.equal(data.train, torch.from_numpy(shapes.pixels[:, None]).float())
    assert data.classes == ("round", "square")
    assert data.labels is not None
    assert data.labels["test"].tolist() == [0, 1] * 6
    colour = as_data(Shapes("RGB"), "binomial:255").load(0)
    assert colour.shape == (3, 4, 5)
    assert rows(colour) == sorted(Shapes("RGB").pixels.transpose(0, 3, 1, 2).reshape(12, -1).astype(float).tolist())


def test_transforms_of_the_user_apply() -> None:
    binary = transforms.Compose([transforms.ToTensor(), transforms.Lambda(lambda x: (x > 0.5).double())])
    shapes = Shapes(transform=binary)
    data = as_data((shapes, shapes, shapes), "bernoulli").load(0)
    assert torch.equal(data.train, torch.from_numpy((shapes.pixels > 127)[:, None]).float())


def test_a_tensor_data_set_may_have_no_labels() -> None:
    x = torch.from_numpy(BITS)
    assert as_data(TensorDataset(x), "bernoulli").load(0).labels is None
    assert rows(as_data(TensorDataset(x), "bernoulli").load(0)) == rows(as_data(x, "bernoulli").load(0))
    assert as_data(TensorDataset(x, torch.arange(60)), "bernoulli") == as_data((x, np.arange(60)), "bernoulli")


def test_what_is_a_data_set_already() -> None:
    digits = Digits()
    assert as_data(digits) is digits
    data = digits.load(0)
    spec = as_data(data)
    assert spec.load(7) is data
    assert isinstance(spec, InMemory)
    assert (spec.name, str(spec.likelihood)) == ("digits", "binomial:16")
    assert spec.given(digits.load(0)) == spec
    assert data.labels is not None
    shifted = {split: 9 - labels for split, labels in data.labels.items()}
    with pytest.raises(FlowvaeError, match="not those of the training"):
        spec.given(replace(data, labels=shifted))
    with pytest.raises(FlowvaeError, match="own likelihood"):
        as_data(data, "binomial:16")


@pytest.mark.parametrize(
    ("x", "fits"),
    [
        (BITS, "'bernoulli'"),
        (BITS * 255, "'binomial:255'"),
        (BITS * 3.0, "'binomial:3', or 'poisson' or 'negative-binomial'"),
        (torch.randn(9, 3), "'gaussian'"),
        (FRAME, "'gaussian'"),
        (Shapes(), "'binomial:255'"),
    ],
)
def test_the_likelihood_is_not_guessed(x: Any, fits: str) -> None:
    with pytest.raises(FlowvaeError, match=f"poisson.*{fits}"):
        Experiment(data=x)


@pytest.mark.parametrize(
    ("value", "settings", "message"),
    [
        (None, {}, "None"),
        ("digits", {}, "'digits'"),
        ([1, 2, 3], {}, r"\[1, 2, 3\]"),
        (Digits, {}, r"Digits\(…\)"),
        (BITS[0], {}, r"\(6,\)"),
        (np.ma.masked_array(BITS), {}, "MaskedArray"),
        (BITS.astype("U1"), {}, "U1"),
        (torch.from_numpy(BITS).to_sparse(), {}, "Tensor.*dense"),
        (DataLoader(TensorDataset(torch.from_numpy(BITS))), {}, r"loader\.dataset"),
        ((BITS, BITS), {}, r"pair.*\(60, 6\)"),
        ((BITS, NAMES[:7]), {}, r"labels of train: shape \(7,\).*\(60,\)"),
        ({"train": BITS, "tset": BITS}, {}, "'tset'.*did you mean test"),
        ({"test": BITS}, {}, "'train'"),
        ({"train": BITS, "test": BITS}, {"labels": NAMES}, "labels = .*by split"),
        (BITS, {"labels": {"test": NAMES}}, "labels of 'test'"),
        (BITS, {"name": "a\nb"}, "name"),
        (BITS, {"likelihood": "gamma"}, "gamma"),
        ((BITS, BITS[:9], BITS[:9, :4]), {}, "'test': 4"),
        (BITS * 2, {}, "value 2 at row"),
    ],
)
def test_other_data_are_refused(value: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FlowvaeError, match=message):
        as_data(value, **{"likelihood": "bernoulli", **settings}).load(0)


def test_an_array_that_was_changed_is_refused() -> None:
    x = BITS.copy()
    spec = as_data(x, "bernoulli")
    x[3, 2] ^= 1
    with pytest.raises(FlowvaeError, match="changed"):
        spec.load(0)


def test_a_run_knows_its_data_by_their_checksum(tmp_path: Path) -> None:
    experiment = Experiment(data=as_data((BITS, NAMES), "bernoulli", name="animals"), **SMALL)
    trained = train(experiment, tmp_path / "run", draws=5, figures=False, progress=False)
    stored = (tmp_path / "run" / "experiment.yaml").read_text()
    assert "family: in-memory" in stored
    assert "name: animals" in stored

    run = load(tmp_path / "run")  # without its data
    assert np.array_equal(run.encode(BITS), trained.encode(BITS))
    assert run.sample(2).shape == (2, 6)
    with pytest.raises(FlowvaeError, match=r"animals.*load\(directory, data=x\)"):
        run.evaluate(draws=5)

    run = load(tmp_path / "run", data=(BITS, NAMES))
    assert run.evaluate(draws=5, progress=False) == trained.metrics
    named = as_data((BITS, NAMES), "bernoulli")
    for other, differs in (
        (BITS, "values or labels"),
        ((1 - BITS, NAMES), "values or labels"),
        (BITS[:, :5], r"of shape \(6,\);.*of shape \(60, 5\).*not those of the training"),
        (named, "name was 'animals', not 'in-memory'"),
        (Digits(), "animals"),
    ):
        with pytest.raises(FlowvaeError, match=f"was trained on.*{differs}"):
            load(tmp_path / "run", data=other)


def test_a_run_encodes_the_frame_that_it_was_trained_on() -> None:
    frame = pd.DataFrame(BITS.astype(float), columns=list("abcdef"))
    run = Experiment(data=as_data(frame, "bernoulli"), **SMALL).run(progress=False)
    found = run.encode(frame)
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, run.encode(frame.to_numpy()))
    with pytest.raises(FlowvaeError, match=r"\(N, 6\)"):
        run.encode(frame[["a", "b"]])
    with pytest.raises(FlowvaeError, match="column 'a' holds no numbers"):
        run.encode(frame.assign(a="x"))
    with pytest.raises(FlowvaeError, match=r"<DataFrame of shape \(60, 6\)>: say what"):
        as_data(frame)


def test_what_a_file_cannot_show_names_the_way_to_give_the_data(tmp_path: Path) -> None:
    run = Experiment(data=as_data(BITS, "bernoulli"), **SMALL).run(progress=False)
    file = run.export(tmp_path / "got.safetensors")
    with pytest.raises(FlowvaeError, match=r"figure.*load\('.*got.safetensors', data=…\)") as caught:
        load(file).figure("samples")
    assert len(str(caught.value).splitlines()) == 1
    assert load(file, data=BITS).figure("samples").axes


def test_a_run_is_printed_in_one_line(tmp_path: Path) -> None:
    run = Experiment(data=as_data(BITS, "bernoulli"), **SMALL).run(progress=False)
    assert repr(run).startswith("Run(data of shape (6,), latent=2, prior=")
    assert len(repr(run)) < 250
    assert "\n" not in repr(run)
    assert "got.safetensors" in repr(load(run.export(tmp_path / "got.safetensors")))


def test_a_model_is_built_for_loaded_data() -> None:
    data = as_data(BITS, "bernoulli")
    experiment = Experiment(data=data, **SMALL)
    assert experiment.build(data.load(seed=0)).model is not None
    for given, remedy in ((data, r"data\.load\(seed=0\)"), (BITS, r"as_data\(x, likelihood\)\.load\(seed=0\)")):
        with pytest.raises(FlowvaeError, match=remedy):
            experiment.build(given)  # type: ignore[arg-type]


def test_training_goes_on_with_the_same_data(tmp_path: Path) -> None:
    settings = {**SMALL, "inference": Training(epochs=4, batch_size=16, device="cpu")}
    longer = Experiment(data=as_data(BITS, "bernoulli"), **settings)
    train(
        Experiment(data=as_data(BITS, "bernoulli"), **SMALL), tmp_path / "run", draws=5, figures=False, progress=False
    )
    with pytest.raises(FlowvaeError, match="given in Python"):
        train(Experiment.from_yaml(tmp_path / "run" / "experiment.yaml"), tmp_path / "run", resume=True)
    with pytest.raises(FlowvaeError, match="data"):
        train(Experiment(data=as_data(1 - BITS, "bernoulli"), **settings), tmp_path / "run", resume=True)
    resumed = train(longer, tmp_path / "run", resume=True, draws=5, figures=False, progress=False)
    assert np.array_equal(resumed.encode(BITS), longer.run(progress=False).encode(BITS))


def test_a_prior_is_fitted_to_a_run_of_given_data(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"draws": 5, "figures": False, "progress": False}
    train(Experiment(data=as_data(BITS, "bernoulli"), **SMALL), tmp_path / "run", **settings)
    stage = SecondStage(Mixture(components=2), inference=SMALL["inference"])
    with pytest.raises(FlowvaeError, match="given in Python"):
        fit_prior(tmp_path / "run", stage, tmp_path / "two", **settings)
    run = fit_prior(tmp_path / "run", stage, tmp_path / "two", data=BITS, **settings)
    assert run.metric("elbo").value < 0


def test_data_from_a_file_are_not_given_again(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", BITS)
    data = Arrays(tmp_path / "x.npy", "bernoulli")  # type: ignore[arg-type]
    train(Experiment(data=data, **SMALL), tmp_path / "run", draws=5, figures=False, progress=False)
    with pytest.raises(FlowvaeError, match="Arrays"):
        load(tmp_path / "run", data=BITS)


def test_an_experiment_with_its_data_can_be_sent_to_another_process() -> None:
    experiment = Experiment(data=as_data(BITS, "bernoulli"), **SMALL)
    again = pickle.loads(pickle.dumps(experiment))
    assert again == experiment
    assert again.data.load(0).identity == experiment.data.load(0).identity
    assert len(repr(experiment)) < 2000


def test_sources_are_read_batch_by_batch(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", BITS)
    mapped = as_data((np.load(tmp_path / "x.npy", mmap_mode="r"), NAMES), "bernoulli")
    assert mapped == as_data((BITS, NAMES), "bernoulli")  # the same values
    data = mapped.load(0)
    assert isinstance(data.train.source, MappedArray)  # type: ignore[union-attr]
    assert data.labels is not None
    items = as_data(TorchSource(TensorDataset(torch.from_numpy(BITS), torch.arange(60))), "bernoulli").load(0)
    assert items.labels is not None
    assert isinstance(items.train.source, TorchSource)  # type: ignore[union-attr]
    for split in SPLITS:
        index = torch.arange(len(getattr(data, split)))
        numbers = items.labels[split]
        assert torch.equal(getattr(items, split)[index], torch.from_numpy(BITS).float()[numbers])
        assert torch.equal(getattr(data, split)[index], getattr(items, split)[index])
        assert [data.classes[n] for n in data.labels[split].tolist()] == NAMES[numbers].tolist()
    assert data.identity.sha256 == items.identity.sha256


def test_a_file_that_has_moved_may_be_given(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", BITS)
    data = Arrays(tmp_path / "x.npy", "bernoulli")  # type: ignore[arg-type]
    trained = train(Experiment(data=data, **SMALL), tmp_path / "run", draws=5, figures=False, progress=False)
    (tmp_path / "x.npy").rename(tmp_path / "y.npy")
    run = load(tmp_path / "run", data=replace(data, path=tmp_path / "y.npy"))
    assert run.evaluate(draws=5, progress=False)[0].value == trained.metrics[0].value
    with pytest.raises(FlowvaeError, match="Gaussian"):
        load(tmp_path / "run", data=Arrays(tmp_path / "y.npy", "gaussian"))  # type: ignore[arg-type]


SHADES = np.random.default_rng(2).integers(0, 256, (60, 4, 4), dtype=np.uint8)


def test_images_may_be_preprocessed(tmp_path: Path) -> None:
    data = as_data((SHADES, np.arange(60) % 3), values="dynamic", flips=True, name="mine")
    assert str(data.load(0).likelihood) == "bernoulli"
    assert data.shape == data.load(0).shape == (1, 4, 4)
    assert as_data(SHADES, values="grey", resize=2).shape == (1, 2, 2)
    plain = as_data(SHADES, "binomial:255").load(0)
    grey = as_data(SHADES, "binomial:255", values="grey").load(0)
    assert torch.equal(grey.test, plain.test)
    fractions = as_data(SHADES / 255, "binomial:255", values="grey").load(0)
    assert fractions.identity == grey.identity
    rows = as_data(SHADES.reshape(60, 16), values="dynamic").load(0)
    assert rows.shape == (16,)
    bits = as_data(SHADES, values="dynamic").load(0)
    assert torch.equal(to_tensor(rows.train, "").flatten(), to_tensor(bits.train, "").flatten())

    trained = train(Experiment(data=data, **SMALL), tmp_path / "run", draws=5, figures=False, progress=False)
    run = load(tmp_path / "run", data=(SHADES, np.arange(60) % 3))
    assert run.evaluate(draws=5, progress=False)[0].value == trained.metrics[0].value
    assert run.experiment.data == data


@pytest.mark.parametrize("form", ["mapped", "file", "memmap"])
def test_images_in_files_may_be_preprocessed(tmp_path: Path, form: str) -> None:
    np.save(tmp_path / "x.npy", SHADES)
    forms = {
        "file": lambda: Arrays(tmp_path / "x.npy", values="dynamic"),
        "mapped": lambda: Mapped(tmp_path / "x.npy", values="dynamic"),
        "memmap": lambda: as_data(np.load(tmp_path / "x.npy", mmap_mode="r"), values="dynamic"),
    }
    found = forms[form]().load(0)
    expected = as_data(SHADES, values="dynamic").load(0)
    assert found.identity.sha256 == expected.identity.sha256
    assert found.identity.preprocessing == expected.identity.preprocessing


@pytest.mark.parametrize(
    ("x", "settings", "match"),
    [
        (SHADES, {"valeus": "grey"}, "'valeus'.*values"),
        (SHADES, {"values": "dynamic", "likelihood": "binomial:255"}, "binomial:255.*dynamic"),
        (SHADES, {"likelihood": "binomial:255", "resize": 2}, "resize = 2.*values"),
        (SHADES.astype(int) - 1, {"values": "dynamic"}, "-1 to 25"),
        (SHADES + 0.5, {"values": "dynamic"}, "fractions"),
        (SHADES > 127, {"values": "dynamic"}, "0 to 1.*bernoulli"),
    ],
)
def test_preprocessing_that_is_refused(x: np.ndarray, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(FlowvaeError, match=match):
        as_data(x, **settings).load(0)


def test_data_as_they_are_need_a_likelihood(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", SHADES)
    for kind in (Arrays, Mapped):
        with pytest.raises(FlowvaeError, match=f"{kind.__name__}.*likelihood.*values"):
            kind(tmp_path / "x.npy")
    with pytest.raises(FlowvaeError, match=r"Mapped.*resize"):
        Mapped(tmp_path / "x.npy", values="grey", resize=2)
