"""Lazy frame tensors: skips offloaded to host memory, and deferred upsampling.

Shapes: T frames, C channels, H and W latent height and width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ...runtime.locked_memory import LockedBuffers


class Frames(Protocol):
    """Frames of a clip, [T, C, H, W], that are read by slices: a tensor, or an object that produces one."""

    @property
    def shape(self) -> torch.Size: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __getitem__(self, frames: slice) -> Tensor: ...


_BUFFERS = LockedBuffers()  # of skips: those of the next call have the same sizes

OffloadSkip = Callable[[Tensor], Frames]  # stores a skip between the down path and the up path


def keep(x_TCHW: Tensor) -> Frames:
    """Keep the skip on its device."""
    return x_TCHW


class HostTensor:
    """A skip offloaded to host memory (page-locked for CUDA): saves a fifth of the peak memory, costs bus traffic.

    On CUDA it is copied on a stream of its own, so that the copy overlaps computation.
    """

    def __init__(self, x_TCHW: Tensor) -> None:
        self.shape, self.dtype, self._device = x_TCHW.shape, x_TCHW.dtype, x_TCHW.device
        if not x_TCHW.is_cuda:
            self._host = x_TCHW.to("cpu", copy=True)
            return
        self._host = _BUFFERS.empty_like(x_TCHW, owner=self)
        stream = _copy_stream(x_TCHW.device)
        stream.wait_stream(torch.cuda.current_stream(x_TCHW.device))
        with torch.cuda.stream(stream):
            self._host.copy_(x_TCHW, non_blocking=True)
        x_TCHW.record_stream(stream)  # the allocator must not reuse its memory before the copy is done

    def __getitem__(self, frames: slice) -> Tensor:
        chunk_TCHW = self._host[frames]
        if self._device.type != "cuda":
            return chunk_TCHW.to(self._device, copy=True)
        torch.cuda.current_stream(self._device).wait_stream(_copy_stream(self._device))
        return chunk_TCHW.to(self._device, non_blocking=True)


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class LazyFrames:
    """Frames of a `shape` that are computed from those of x on access: the whole clip is never materialised."""

    def __init__(self, compute: Callable[[Tensor], Tensor], x_TCHW: Tensor, shape: tuple[int, ...]) -> None:
        self._compute, self._x_TCHW = compute, x_TCHW
        self.shape, self.dtype = torch.Size(shape), x_TCHW.dtype

    def __getitem__(self, frames: slice) -> Tensor:
        return self._compute(self._x_TCHW[frames])
