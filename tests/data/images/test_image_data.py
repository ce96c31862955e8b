"""Image data sets as a whole: what intensities they take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flowvae.core.errors import FlowvaeError
from flowvae.data import as_data


@pytest.mark.parametrize("mapped", [False, True])
def test_fractions_plus_noise_have_no_code_length(tmp_path: Path, mapped: bool) -> None:
    x = np.full((20, 4, 4), 0.3, np.float32) if not mapped else np.full((20, 4, 4), 76.5, np.float32)
    np.save(tmp_path / "x.npy", x)
    given = np.load(tmp_path / "x.npy", mmap_mode="r" if mapped else None)
    with pytest.raises(FlowvaeError, match=r"76\.5.*dequantized"):
        as_data(given, values="dequantized").load(0)
    assert as_data(given, values="dequantized", levels=128).load(0).dequantized  # rounded down to counts
    assert not as_data(given, values="unit").load(0).dequantized
