"""The results of a run: a JSON line for each, on disk before the next is measured."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

Row = dict[str, Any]
_SHOWN = 300  # characters of a line in the terminal


class Record:
    """Rows of a run, in a file of JSON lines. An existing file is appended to.

    Args:
        start: when the run began, by `time.perf_counter`.
    """

    def __init__(self, file: Path, start: float | None = None) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = file
        self.rows: list[Row] = []
        self.section = ""  # of the rows that follow
        self._start = time.perf_counter() if start is None else start

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self._start

    def put(self, name: str, **values: object) -> None:
        """Write a row, and wait until it is on disk."""
        row: Row = {"section": self.section, "name": name, "at": round(self.elapsed, 1)}
        row |= {key: _rounded(value) for key, value in values.items()}
        line = json.dumps(row)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)
        print(line[:_SHOWN], flush=True)


def _rounded(value: object) -> object:
    """Five digits of a float; NaN and infinity as text, which JSON has no numbers for."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else str(value)
