"""Progress in the terminal."""

from __future__ import annotations

import sys
from typing import NoReturn

from tqdm import tqdm


def say(text: str) -> None:
    """Print a line above the bars."""
    tqdm.write(f"exvideo: {text}", file=sys.stderr)


class Bar:
    """A progress bar with time left, called with (done, all); it shows itself at the first call.

    The unit B, of bytes, is written as 1.2G.
    """

    def __init__(self, label: str, unit: str) -> None:
        self.label, self.unit = label, unit
        self.bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> Bar:
        return self

    def __call__(self, done: int, total: int | None) -> None:
        if self.bar is None:
            before = max(done - 1, 0)  # by an earlier command, which says nothing about the time left
            self.bar = tqdm(total=total, initial=before, desc=self.label, unit=self.unit, unit_scale=self.unit == "B")
        self.bar.total = total
        if done != self.bar.n:  # else a waiting download would fill a log with the same line
            self.bar.update(done - self.bar.n)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
