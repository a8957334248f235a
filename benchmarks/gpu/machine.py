"""What the machine is, and the rates that nothing on it exceeds: a matrix product, a copy, a copy from main memory."""

from __future__ import annotations

import os
import platform

import torch

from benchmarks.gpu.bench import Bench, is_installed
from benchmarks.gpu.record import Row
from benchmarks.gpu.timing import rate, timed

_PACKAGES = ("triton", "transformers", "diffusers", "diffsynth", "flash_attn", "flash_attn_interface", "sageattention")


def measure(bench: Bench) -> None:
    """Versions, then the rates."""
    _put_versions(bench)
    _product(bench)
    _copies(bench)


def _put_versions(bench: Bench) -> None:
    info: Row = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "packages": [name for name in _PACKAGES if is_installed(name)],
    }
    if bench.on_gpu:
        free, total = torch.cuda.mem_get_info()
        info |= {"gpu": torch.cuda.get_device_name(), "capability": list(torch.cuda.get_device_capability())}
        info |= {"free_gb": free / 1e9, "total_gb": total / 1e9}
        info |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    bench.record.put("versions", **info)


def _product(bench: Bench) -> None:
    side = bench.size(8192, 256)
    x, y = (bench.random(side, side, dtype=bench.brain, seed=seed) for seed in (1, 2))
    numbers, _ = timed(bench, lambda: x @ y, repeats=5, warm_ups=2)
    bench.record.put("matrix product", **rate(2 * side**3, numbers))


def _copies(bench: Bench) -> None:
    source = torch.ones(bench.size(2**32, 2**20), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    numbers, _ = timed(bench, lambda: target.copy_(source), repeats=5, warm_ups=2)
    bench.record.put("copy", gb_per_second=2 * source.nbytes / numbers["seconds"] / 1e9, **numbers)
    if bench.on_gpu:
        host = torch.empty(bench.size(2**30, 2**18), dtype=torch.uint8, pin_memory=True)
        numbers, _ = timed(bench, lambda: target[: len(host)].copy_(host, non_blocking=True))
        bench.record.put("copy from main memory", gb_per_second=host.nbytes / numbers["seconds"] / 1e9, **numbers)
