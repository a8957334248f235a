"""Runs that are cut off on purpose."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

STEPS = 5


class Cut(Exception):  # noqa: N818  nothing went wrong
    """What ends a run in these tests."""


def cut_after(step: int) -> Callable[[int, int, Tensor], None]:
    def callback(done: int, _steps: int, _denoised: Tensor) -> None:
        if done == step:
            raise Cut

    return callback
