"""The rows of a run as a Markdown page, a table for the rows of a section that have the same columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from benchmarks.gpu.record import Row
from benchmarks.report import table

_OF_RUN = ("left out", "failed", "done")  # rows about a section, not of it


def page(rows: Sequence[Row]) -> str:
    """What ran, what does not hold, and every section's rows."""
    lines = ["# Measured", "", *_overview(rows)]
    if broken := [row for row in rows if row.get("holds") is False]:
        lines += ["", "## What does not hold", "", *_tables(broken)]
    measured = [row for row in rows if row["name"] not in _OF_RUN]
    for section, its_rows in groupby(measured, key=_section):
        lines += ["", f"## {section}", "", *_tables(its_rows)]
    return "\n".join(lines) + "\n"


def _overview(rows: Sequence[Row]) -> list[str]:
    body = []
    for row in rows:
        if row["name"] == "done":
            body.append([row["section"], f"{row['seconds']:.1f} s", "failed" if row["has_failed"] else ""])
        if row["name"] == "left out":
            body.append([row["section"], "left out", row["reason"]])
    errors = [f"- {row['section']}: {row['error']}" for row in rows if row["name"] == "failed"]
    return [*table(["section", "", ""], body), "", *errors]


def _tables(rows: Iterable[Row]) -> list[str]:
    lines: list[str] = []
    for columns, same in groupby(rows, key=_columns):
        lines += ["", *table(list(columns), [[_text(row[column]) for column in columns] for row in same])]
    return lines[1:]


def _section(row: Row) -> str:
    return row["section"]


def _columns(row: Row) -> tuple[str, ...]:
    return tuple(key for key in row if key not in ("section", "at"))


def _text(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "/")
