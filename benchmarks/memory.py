"""Peak memory: of the process on the CPU, of PyTorch's tensors on CUDA."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def wait(device: str) -> None:
    """Wait until the device has finished all queued work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def reset(device: str) -> None:
    """Reset the peak on CUDA; a process's peak cannot be reset."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> int:
    """Peak memory in bytes."""
    wait(device)
    return int(torch.cuda.max_memory_allocated()) if device.startswith("cuda") else _of_process()


def _of_process() -> int:
    if _STATUS.exists():  # of this program alone, while getrusage includes the process that started it
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
