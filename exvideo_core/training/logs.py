"""Logs of a run: CSV tables that a resumed run continues, and TensorBoard."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ExVideoError
from ..files import quoted, read_small
from ..whole_file import whole_file

_MOST_BYTES = 500_000_000  # of a table: some million steps


class Table:
    """A CSV file with a row for each step, the first of its columns. Opened at a step, it drops the rows after that."""

    def __init__(self, path: Path, columns: Sequence[str], step: int) -> None:
        self.path, self.columns = path, columns
        kept = [row for row in _rows(path, len(columns)) if int(row[0]) <= step]
        with whole_file(path, ExVideoError) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([columns, *kept])

    def add(self, values: Sequence[float]) -> None:
        """Append a row and close the file, so that a kill does not lose it."""
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow(values)


def _rows(path: Path, columns: int) -> list[list[str]]:
    """Whole rows, a kill may have cut the last; ExVideoError if it is not the table of a run."""
    if not path.exists():
        return []
    try:
        text = read_small(path, _MOST_BYTES)
        rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))[1:]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ExVideoError(f"{path} cannot be read as a table ({error}): move it away to resume.") from error
    if strange := [row for row in rows if not row or len(row) > columns or not re.fullmatch(r"[0-9]{1,18}", row[0])]:
        raise ExVideoError(f"{path} is not the table of a run ({quoted(str(strange[0]))}): move it away to resume.")
    return rows


class TensorBoard:
    """Curves for TensorBoard."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ExVideoError(
                "run.tensorboard needs the package tensorboard, which is not installed: pip install tensorboard; "
                "or set it to false: log.csv is written in any case."
            ) from error
        self._writer: Any = SummaryWriter(str(folder))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()
