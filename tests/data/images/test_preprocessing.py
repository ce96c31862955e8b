"""Preprocessing of images: values, sizes and colours against independent computations, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from flowvae import FlowvaeError
from flowvae.core.parts import parse_likelihood
from flowvae.data.images.preprocessing import KINDS, OptionalPreprocessing, Preprocessing

RAMP = torch.arange(256, dtype=torch.uint8)
NOISE = torch.randint(-(2**31), 2**31, (400, 256), dtype=torch.int32, generator=torch.Generator().manual_seed(0))


def test_values_without_noise() -> None:
    x = RAMP.double()
    assert torch.equal(Preprocessing(values="grey").to_values(RAMP, None).double(), x)
    assert torch.equal(Preprocessing(values="grey", levels=8).to_values(RAMP, None).double(), (x / 32).floor())
    assert torch.equal(Preprocessing(values="threshold").to_values(RAMP, None), x >= 0.5 * 255)
    torch.testing.assert_close(Preprocessing(values="unit").to_values(RAMP, None).double(), x / 255, atol=1e-7, rtol=0)
    assert Preprocessing(values="unit", levels=4).to_values(RAMP, None).unique().tolist() == pytest.approx(
        [0, 1 / 3, 2 / 3, 1]
    )


@pytest.mark.parametrize("x", [RAMP, RAMP.float()], ids=["bytes", "floats"])
def test_bits_have_the_probability_of_their_shade(x: torch.Tensor) -> None:
    """Frequencies of 400 draws of each shade: the sum of squared z-scores is χ² with 254 degrees of freedom."""
    bits = Preprocessing(values="fixed").to_values(x.expand(400, -1), NOISE).double()
    assert not bits[:, 0].any()
    assert bits[:, 255].all()
    p = torch.arange(1, 255).double() / 255
    z = (bits[:, 1:255].sum(0) - 400 * p) / (400 * p * (1 - p)).sqrt()
    assert abs((z**2).sum().item() - 254) < 4 * (2 * 254) ** 0.5


def test_the_limits_of_the_noise_give_the_limits_of_the_probability() -> None:
    """x = 0 is never 1 and x = 255 always, for the least and the largest noise."""
    extreme = torch.tensor([-(2**31), 2**31 - 1], dtype=torch.int32)
    for ends in (torch.tensor([0, 255], dtype=torch.uint8), torch.tensor([0.0, 255.0])):
        for noise in extreme:
            assert Preprocessing(values="dynamic").to_values(ends, noise.expand(2)).tolist() == [0, 1]


def test_dequantized_values_keep_their_count() -> None:
    x = Preprocessing(values="dequantized").to_values(RAMP.expand(400, -1), NOISE)
    assert torch.equal(x.float().floor(), RAMP.float().expand(400, -1))
    u = (x.double() - RAMP.double()).flatten()
    assert u.mean().item() == pytest.approx(0.5, abs=4 / (12 * len(u)) ** 0.5)
    assert u.var().item() == pytest.approx(1 / 12, rel=0.02)
    largest = torch.full((256,), 2**31 - 1, dtype=torch.int32)
    assert (Preprocessing(values="dequantized").to_values(RAMP, largest).float() < RAMP.float() + 1).all()


def test_sizes_are_those_of_torchvision_and_the_shape_says_so() -> None:
    """Resized and cropped like torchvision's transforms of a PIL image, up to its rounding."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(pixels).resize((60, 40), Image.Resampling.BICUBIC))
    image, x = Image.fromarray(pixels), torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
    for settings in ({"resize": 20}, {"resize": (16, 24)}, {"crop": 30}, {"resize": 24, "crop": (20, 10)}):
        how = Preprocessing(**settings)  # type: ignore[arg-type]
        steps = []
        if "resize" in settings:
            steps.append(transforms.Resize(settings["resize"]))
        if "crop" in settings:
            steps.append(transforms.CenterCrop(settings["crop"]))
        expected = torch.from_numpy(np.asarray(transforms.Compose(steps)(image)).transpose(2, 0, 1).astype(float))
        found = how.resized(x)[0]
        assert found.shape == expected.shape == how.event_shape((3, 40, 60))
        assert (found.double() - expected).abs().max() <= 2


def test_colours() -> None:
    x = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grey = Preprocessing(colour="grey").resized(x)
    luma = (x.double() * torch.tensor([0.299, 0.587, 0.114]).double()[:, None, None]).sum(1, keepdim=True)
    assert (grey.double() - luma).abs().max() < 1.05  # torchvision rounds down
    assert torch.equal(Preprocessing(colour="rgb").resized(grey), grey.expand(-1, 3, -1, -1))
    assert Preprocessing(colour="rgb").event_shape((1, 4, 5)) == (3, 4, 5)
    assert Preprocessing(colour="grey").event_shape((3, 4, 5)) == (1, 4, 5)


def test_every_protocol_has_its_own_text() -> None:
    settings: list[dict[str, object]] = [{"values": values} for values in KINDS]
    settings += [{"levels": 16}, {"resize": 20}, {"resize": (20, 20)}, {"crop": 20}, {"flips": True}]
    settings += [{"colour": "grey"}, {"values": "unit", "levels": 16}]
    texts = [Preprocessing(**how).text for how in settings]  # type: ignore[arg-type]
    assert len({*texts}) == len(texts)
    assert all(len(text.splitlines()) == 1 for text in texts)


@pytest.mark.parametrize("values", KINDS)
def test_the_default_likelihood_has_the_values_in_its_support(values: str) -> None:
    for levels in (256,) if KINDS[values].bits else (256, 16):
        how = Preprocessing(values=values, levels=levels)
        likelihood = how.decide_likelihood(None)
        assert not likelihood.violations(how.to_values(RAMP, NOISE[0]).float()).any()
        assert likelihood.largest in (None, 1, levels - 1)


def test_a_likelihood_that_does_not_fit_is_refused() -> None:
    for values, text in (("grey", "bernoulli"), ("grey", "binomial:16"), ("dynamic", "binomial:255")):
        with pytest.raises(FlowvaeError, match=rf"{text}.*{values}"):
            Preprocessing(values=values).decide_likelihood(parse_likelihood(text))
    for values, text in (("dequantized", "binomial:256"), ("unit", "bernoulli"), ("unit", "poisson")):
        with pytest.raises(FlowvaeError, match=rf"{text}.*{values}"):
            Preprocessing(values=values).decide_likelihood(parse_likelihood(text))
    for values in ("threshold", "fixed", "dynamic"):  # bits have no density
        with pytest.raises(FlowvaeError, match=rf"gaussian:shared.*{values}"):
            Preprocessing(values=values).decide_likelihood(parse_likelihood("gaussian:shared"))
    assert str(Preprocessing(levels=16).decide_likelihood(parse_likelihood("binomial:15"))) == "binomial:15"


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"values": "gray"}, "'gray'.*grey"),
        ({"levels": 100}, "levels = 100"),
        ({"levels": 16, "values": "dynamic"}, "levels = 16.*dynamic"),
        ({"resize": 0}, "resize = 0"),
        ({"resize": (1, 2, 3)}, r"resize = \(1, 2, 3\)"),
        ({"crop": "square"}, "crop = 'square'"),
        ({"crop": True}, "crop = True"),
        ({"flips": 1}, "flips = 1"),
        ({"colour": "green"}, "'green'.*grey"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, object], match: str) -> None:
    with pytest.raises(FlowvaeError, match=match):
        Preprocessing(**settings)  # type: ignore[arg-type]


def test_an_image_that_is_smaller_than_the_crop_is_refused() -> None:
    with pytest.raises(FlowvaeError, match=r"30 × 30.*20 × 40"):
        Preprocessing(crop=30).resized(torch.zeros(1, 1, 20, 40, dtype=torch.uint8))


def test_data_as_they_are_have_no_other_settings() -> None:
    assert not OptionalPreprocessing().is_image
    with pytest.raises(FlowvaeError, match=r"flips = True.*values"):
        OptionalPreprocessing(flips=True)
