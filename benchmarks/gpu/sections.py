"""Runs sections one after the other in one process, as many as fit into the time; a failure does not end the run."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

import torch

from benchmarks.gpu.bench import Bench, is_installed
from benchmarks.gpu.page import page


@dataclass(frozen=True, kw_only=True)
class Section:
    """Something to measure.

    Attributes:
        name: for the option `--only` and the rows.
        seconds: estimate on an H200; 0 always fits.
        measure: records rows.
        needs: packages without which it is left out.
        is_of_gpu: whether it makes no sense on a CPU.
    """

    name: str
    seconds: float
    measure: Callable[[Bench], None]
    needs: tuple[str, ...] = ()
    is_of_gpu: bool = False


def run(sections: Sequence[Section], bench: Bench, seconds: float, only: Container[str] | None = None) -> int:
    """Run the sections that fit, record why the others are left out, and write a page beside the record.

    Args:
        seconds: for all, from the start of the record on.
        only: names of sections, if not all.

    Returns:
        how many sections failed, and checks that do not hold.
    """
    log, warnings = logging.getLogger("exvideo_core"), _Recorded(bench)
    log.addHandler(warnings)
    failed = 0
    try:
        for section in sections:
            if only is None or section.name in only:
                failed += not _run(section, bench, seconds)
                bench.record.file.with_suffix(".md").write_text(page(bench.record.rows), encoding="utf-8")
    finally:
        log.removeHandler(warnings)
    return failed + bench.failed_checks


def _run(section: Section, bench: Bench, seconds: float) -> bool:
    """Run a section if it fits; False if it failed."""
    record = bench.record
    record.section = section.name
    if reason := _why_left_out(section, bench, seconds):
        record.put("left out", reason=reason)
        return True
    start = record.elapsed
    try:
        with torch.no_grad():
            section.measure(bench)
    except Exception as error:  # noqa: BLE001  # recorded with its place, and the next section goes on
        record.put("failed", error=f"{type(error).__name__}: {str(error)[:300]}", where=traceback.format_exc()[-1500:])
        has_failed = True
    else:
        has_failed = False
    if has_failed:
        bench.drop()  # outside of `except`, where the tensors of the failed section are free
    bench.free()
    record.put("done", seconds=record.elapsed - start, estimate=section.seconds, has_failed=has_failed)
    return not has_failed


def _why_left_out(section: Section, bench: Bench, seconds: float) -> str:
    """Empty if it is not."""
    if missing := [name for name in section.needs if not is_installed(name)]:
        return f"it needs {' and '.join(missing)}"
    if section.is_of_gpu and not bench.on_gpu:
        return "it needs a GPU"
    left = seconds - bench.record.elapsed
    if section.seconds and section.seconds > left:
        return f"it takes about {section.seconds:g} s, and {max(0.0, left):.0f} s are left"
    return ""


class _Recorded(logging.Handler):
    """Warnings of the core as rows: a kernel that is left out, a retry with smaller chunks."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(logging.WARNING)
        self.bench = bench

    def emit(self, record: logging.LogRecord) -> None:
        self.bench.record.put("warning", text=record.getMessage())
