"""What the tests of notebooks share: a process left as it was."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def process_left_as_it_was() -> Any:
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
