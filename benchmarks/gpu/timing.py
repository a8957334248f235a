"""Seconds and peak memory of a call."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from benchmarks.gpu.bench import Bench


class Timed(NamedTuple):
    """A call's numbers for its row, and the last result."""

    numbers: dict[str, float]
    result: Any


def timed(bench: Bench, call: Callable[[], Any], repeats: int = 3, warm_ups: int = 1) -> Timed:
    """Time a call.

    Returns:
        `seconds`, the median, and `best_seconds`; on CUDA `peak_gb`, the most memory of tensors beside what was held
        before, and `reserved_gb`, that of the allocator in all.
    """
    result = None
    for _ in range(warm_ups):  # kernels are compiled, chosen and compared
        result = call()
    bench.wait()
    result, held = None, _start_peak(bench)
    seconds = []
    for _ in range(repeats):
        result = None  # else two results are in memory
        start = time.perf_counter()
        result = call()
        bench.wait()
        seconds.append(time.perf_counter() - start)
    numbers = {"seconds": statistics.median(seconds), "best_seconds": min(seconds)}
    return Timed(numbers | _peak(bench, held), result)


def rate(operations: float, numbers: dict[str, float]) -> dict[str, float]:
    """The numbers, with the rate of so many operations in front."""
    return {"tflops": operations / numbers["seconds"] / 1e12} | numbers


def once(bench: Bench, call: Callable[[], Any]) -> float:
    """Seconds of one call, such as the first."""
    bench.wait()
    start = time.perf_counter()
    call()
    bench.wait()
    return time.perf_counter() - start


def launch_seconds(bench: Bench, call: Callable[[], Any]) -> float:
    """Seconds until a call returns, before the device has finished: near the whole, Python is the bottleneck."""
    bench.wait()
    start = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    bench.wait()
    del result
    return seconds


def _start_peak(bench: Bench) -> int:
    if not bench.on_gpu:
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak(bench: Bench, held: int) -> dict[str, float]:
    if not bench.on_gpu:
        return {}
    peak, reserved = torch.cuda.max_memory_allocated() - held, torch.cuda.max_memory_reserved()
    return {"peak_gb": peak / 1e9, "reserved_gb": reserved / 1e9}
