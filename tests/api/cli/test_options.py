"""Options that are read from the words alone."""

from __future__ import annotations

import pytest

from flowvae import FlowvaeError
from flowvae.cli.options import check_once, take_option


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("--latent 2 --latent 3", ("'--latent'",)),
        ("--latent=2 --latent 3", ("'--latent'",)),
        ("--inference.batch-size 2 --inference.batch_size 3", ("'--inference.batch-size'",)),
        ("--guide.conditioned --guide.no-conditioned", ("'--guide.conditioned'", "'--guide.no-conditioned'")),
        ("--figures --no-figures", ("'--figures'", "'--no-figures'")),
    ],
)
def test_an_option_that_is_given_twice_is_refused(line: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(FlowvaeError) as info:
        check_once(line.split())
    assert all(part in str(info.value) for part in parts)
    check_once(["--prior.transforms", "2", "--guide.transforms", "2", "--help", "--help", "-3", "-3"])


def test_an_option_is_taken_out_with_its_value() -> None:
    assert take_option(["a", "--config", "b", "c"], "--config") == (["a", "c"], "b")
    assert take_option(["a", "--config=b=c", "d"], "--config") == (["a", "d"], "b=c")
    assert take_option(["a", "--configs", "b"], "--config") == (["a", "--configs", "b"], None)
    for words in (["--config"], ["--config", "--overwrite"]):
        with pytest.raises(FlowvaeError, match="--config"):
            take_option(words, "--config")
