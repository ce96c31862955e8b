"""Images that become values when they are read: the same at each reading, others when they are drawn anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from flowvae.data.access import Flattened, to_tensor
from flowvae.data.batch import Batch, Source, redrawn
from flowvae.data.images import pixels as module
from flowvae.data.images.pixels import Pixels
from flowvae.data.images.preprocessing import Preprocessing
from flowvae.data.sources import Selected

IMAGES = torch.randint(0, 256, (50, 1, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
RANDOM = ["dynamic", "fixed", "dequantized"]


class Rows:
    """A source of intensities over a tensor."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x, self.shape, self.dtype = x, x.shape, x.dtype

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        return self.x[index]

    def batches(self, order):  # type: ignore[no-untyped-def]
        return (self[index] for index in order)


@pytest.mark.parametrize("values", RANDOM)
def test_reading_gives_the_same_values_in_any_order(values: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = Pixels(IMAGES, Preprocessing(values=values), seed=3)
    assert isinstance(x, Source)
    all_at_once = x[torch.arange(50)]
    torch.manual_seed(5)
    order = torch.randperm(50).split(7)
    for index, batch in zip(order, x.batches(order), strict=True):
        assert torch.equal(batch, all_at_once[index])
    for index, batch in zip(order, Pixels(Rows(IMAGES), x.how, 3).batches(order), strict=True):
        assert torch.equal(batch, all_at_once[index])
    assert torch.equal(x.part(torch.tensor([40, 2]))[torch.tensor([1, 0])], all_at_once[[2, 40]])
    monkeypatch.setattr(module, "BLOCK", 60)  # two images
    assert torch.equal(x[torch.arange(50)], all_at_once)
    assert not torch.equal(Pixels(IMAGES, x.how, seed=4)[torch.arange(50)], all_at_once)


def test_random_numbers_of_others_are_left_alone() -> None:
    state = torch.get_rng_state()
    Pixels(IMAGES, Preprocessing(values="dynamic", flips=True), seed=3).redrawn(1)[torch.arange(50)]
    assert torch.equal(torch.get_rng_state(), state)


def test_bits_drawn_anew_have_the_probabilities_of_the_image() -> None:
    """Binomial tests over 400 draws; the smallest of 30 p-values is not below 0.001 / 30."""
    x = Pixels(IMAGES[:1], Preprocessing(values="dynamic"), seed=0)
    draws = torch.cat([x.redrawn(seed)[torch.tensor([0])] for seed in range(400)])
    for shade, count in zip(IMAGES[0].flatten().tolist(), draws.sum(0).flatten().tolist(), strict=True):
        assert stats.binomtest(int(count), 400, shade / 255).pvalue > 0.001 / 30


def test_only_what_is_random_in_a_training_is_drawn_anew() -> None:
    for values in ("grey", "threshold", "fixed", "unit"):
        x = Pixels(IMAGES, Preprocessing(values=values), seed=0)
        assert redrawn(x, 1) is x
    for settings in ({"values": "dynamic"}, {"values": "dequantized"}, {"flips": True}):
        x = Pixels(IMAGES, Preprocessing(**settings), seed=0)  # type: ignore[arg-type]
        again = x.redrawn(1)[torch.arange(50)]
        assert torch.equal(again, x.redrawn(1)[torch.arange(50)])
        assert not torch.equal(again, x.redrawn(2)[torch.arange(50)])
        assert not torch.equal(again, x[torch.arange(50)])


def test_flips_mirror_half_of_the_training_images() -> None:
    x = Pixels(IMAGES.repeat(20, 1, 1, 1), Preprocessing(flips=True), seed=0)
    plain, drawn = x[torch.arange(1000)], x.redrawn(1)[torch.arange(1000)]
    assert torch.equal(plain, x.intensities.float())  # type: ignore[union-attr]
    mirrored = (drawn == plain.flip(-1)).flatten(1).all(1)
    assert ((drawn == plain).flatten(1).all(1) | mirrored).all()
    assert stats.binomtest(int(mirrored.sum()), 1000, 0.5).pvalue > 1e-3


def test_bits_that_are_drawn_once_stay_the_same_where_images_are_flipped() -> None:
    x = Pixels(IMAGES, Preprocessing(values="fixed", flips=True), seed=0)
    bits = x[torch.arange(50)]
    for seed in (1, 2):
        drawn = x.redrawn(seed)[torch.arange(50)]
        assert ((drawn == bits).flatten(1).all(1) | (drawn == bits.flip(-1)).flatten(1).all(1)).all()


def test_wrappers_and_batches_draw_anew() -> None:
    x = Pixels(IMAGES, Preprocessing(values="dynamic"), seed=0)
    expected = x.redrawn(1)[torch.arange(50)]
    index = torch.tensor([7, 3])
    assert torch.equal(to_tensor(redrawn(Flattened(x), 1), ""), expected.flatten(1))
    assert torch.equal(to_tensor(redrawn(Selected(x, index), 1), ""), expected[index])
    batch = Batch(x, torch.arange(50)[:, None]).redrawn(1)[index]
    assert torch.equal(batch.args[0], expected[index])
    assert torch.equal(batch.args[1].flatten(), index)
    grey = Flattened(Pixels(IMAGES, Preprocessing(), seed=0))
    assert redrawn(grey, 1) is grey
    plain = Batch(IMAGES.float())
    assert plain.redrawn(1).x is plain.x


@pytest.mark.parametrize("index", [3, -1, slice(2, 7), slice(0, 8, 3), [4, 0], np.array([5, 5]), range(2, 4)], ids=str)
def test_indexing_is_that_of_a_tensor(index: Any) -> None:
    pixels = Pixels(torch.arange(8 * 12, dtype=torch.uint8).reshape(8, 1, 3, 4), Preprocessing(values="dynamic"), 0)
    every = pixels[torch.arange(8)]
    assert torch.equal(pixels[index], every[index])
    assert torch.equal(Selected(pixels, torch.arange(8).flip(0))[index], every.flip(0)[index])
    assert torch.equal(Flattened(pixels)[index], every.flatten(1)[index])


def test_a_source_can_be_iterated_and_loaded() -> None:
    pixels = Pixels(torch.arange(8 * 12, dtype=torch.uint8).reshape(8, 1, 3, 4), Preprocessing(values="dynamic"), 0)
    every = pixels[:]
    assert torch.equal(torch.stack(list(pixels)), every)
    assert torch.equal(torch.cat(list(torch.utils.data.DataLoader(pixels, batch_size=3))), every)  # type: ignore[arg-type]
    mask = every.flatten(1).sum(1) > 4
    assert torch.equal(pixels[mask], every[mask])
