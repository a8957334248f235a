"""Progress in the terminal."""

from __future__ import annotations

from typing import NoReturn

from tqdm import tqdm


class Bar:
    """A progress bar with time left, called with (done, all); it shows itself at the first call."""

    def __init__(self, label: str, unit: str) -> None:
        self.label, self.unit = label, unit
        self.bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> Bar:
        return self

    def __call__(self, done: int, total: int | None) -> None:
        bar = self.bar = self.bar or tqdm(total=total, desc=self.label, unit=self.unit)
        bar.update(done - bar.n)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
