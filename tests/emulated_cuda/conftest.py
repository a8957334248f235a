"""An emulated card for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .device import EmulatedCuda
from .patches import emulated, why_not
from .pipelines import fresh


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    if reason := why_not():
        pytest.skip(f"no CUDA can be emulated: {reason}")
    with fresh():
        yield


@pytest.fixture
def cuda() -> Iterator[EmulatedCuda]:
    """Two H200."""
    with emulated() as device:
        yield device
