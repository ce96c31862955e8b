"""Values outside the support, and splits of different shapes."""

from __future__ import annotations

import pytest
import torch

from flowvae.core.errors import FlowvaeError
from flowvae.data.checks import check_shapes_agree, check_values
from flowvae.models import BernoulliLikelihood, BinomialLikelihood, GaussianLikelihood


@pytest.mark.parametrize(
    ("values", "likelihood", "remedy"),
    [
        ([0.0, 255.0], BernoulliLikelihood(), "divide by 255"),
        ([0.0, 7.0, 12.0], BernoulliLikelihood(), "binomial:TOTAL, with a TOTAL of 12"),
        ([0.0, 7.0, 30.0], BinomialLikelihood(16), "TOTAL of 30"),
        ([0.0, 0.4, 1.0], BernoulliLikelihood(), "a threshold"),
        ([-0.5, 0.4, 1.0], BinomialLikelihood(16), "are gaussian"),
        ([-1.0, 0.0, 3.0], BinomialLikelihood(16), "are gaussian"),
        ([0.0, float("nan"), 3.0], GaussianLikelihood(), "these rows out"),
    ],
)
def test_the_remedy_is_for_the_data_at_hand(values: list[float], likelihood: GaussianLikelihood, remedy: str) -> None:
    with pytest.raises(FlowvaeError, match=remedy):
        check_values("mine", torch.tensor(values)[:, None], likelihood)


def test_the_first_wrong_value_is_named_with_its_place_and_their_number() -> None:
    x = torch.zeros(5, 2, 3)
    x[3, 1, 2], x[4, 0, 0] = 7.0, 9.0
    with pytest.raises(FlowvaeError, match=r"mine: value 7 at row 3, value \(1, 2\) \(2 such"):
        check_values("mine", x, BinomialLikelihood(6))
    check_values("mine", x, BinomialLikelihood(9))


def test_splits_of_different_shapes_are_refused_with_their_shapes() -> None:
    check_shapes_agree("mine", {"train": torch.zeros(5, 2, 3), "test": torch.zeros(4, 2, 3)})
    with pytest.raises(FlowvaeError, match=r"\(2, 3\).*\(3, 2\)"):
        check_shapes_agree("mine", {"train": torch.zeros(5, 2, 3), "test": torch.zeros(4, 3, 2)})
    with pytest.raises(FlowvaeError, match="'train': 2, 'test': 3"):
        check_shapes_agree("mine", {"train": torch.zeros(5, 2), "test": torch.zeros(5, 3)})
