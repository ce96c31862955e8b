"""Every arm trains and is measured; settings that suit a test."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from flowvae import FlowvaeError, Training
from flowvae.comparisons.studies.models_of_data import ARMS, measure_arm

QUICK = Training(epochs=1, batch_size=256, validation_draws=1, device="cpu")


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_measured(name: str, tmp_path: Path) -> None:
    row = measure_arm(name, seed=0, draws=2, settings=QUICK, figures=tmp_path if name == "Glow" else None)
    drawn = {f"glow-{what}.png" for what in ("samples", "interpolation")} if name == "Glow" else set()
    assert {file.name for file in tmp_path.iterdir()} == drawn
    bits, bound = row["bits_per_dim"], row["bits_per_dim_bound"]
    assert isinstance(bits, float)
    assert isinstance(bound, float)
    # log2(17) bits are what a uniform guess needs; a start may be worse than it, but not by orders of magnitude
    assert 1.0 < bits < 3 * math.log2(17)
    exact = row["draws"] == 0
    assert (bits == bound) if exact else (bits <= bound)
    assert exact == ("PixelCNN" in name or name in ("MADE", "WaveNet"))


def test_an_unknown_arm_is_refused() -> None:
    with pytest.raises(FlowvaeError, match="did you mean MADE"):
        measure_arm("MAED", seed=0)
    with pytest.raises(FlowvaeError, match="did you mean digits"):
        measure_arm("MADE", seed=0, data="digit")
