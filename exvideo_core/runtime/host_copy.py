"""Copies from a GPU to main memory that do not keep it waiting."""

from __future__ import annotations

import torch
from torch import Tensor

from ..nn.out_of_memory import forget_error


class HostCopy:
    """A tensor on its way to main memory, while the GPU computes what comes next."""

    def __init__(self, x: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        locked = _locked_like(x) if x.device.type == "cuda" else None
        if locked is None:
            self._host = x.cpu()
            return
        self._host = locked.copy_(x, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record(torch.cuda.current_stream(x.device))

    def wait(self) -> Tensor:
        """The tensor, once it is there."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._host


def _locked_like(x: Tensor) -> Tensor | None:
    """Page-locked memory; None where the system locks no more."""
    try:
        return torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    except RuntimeError:
        forget_error()
        return None
