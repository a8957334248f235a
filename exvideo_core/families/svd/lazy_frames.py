"""Frames that are not simply there: skips that wait in the host's memory, and upsampled frames before they are needed.

Shapes: T frames, C channels, H and W latent height and width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Frames(Protocol):
    """Frames of a clip, [T, C, H, W], of which some can be had by a slice: a tensor, or what gives one."""

    @property
    def shape(self) -> torch.Size: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __getitem__(self, frames: slice) -> Tensor: ...


OffloadSkip = Callable[[Tensor], Frames]  # where a skip waits from the way down to the way up


def keep(x_TCHW: Tensor) -> Frames:
    """Skips remain where they are."""
    return x_TCHW


class HostTensor:
    """A skip that waits in the host's memory: a fifth of the peak less, for some traffic over the bus.

    Copies run on a stream of their own, so that the device goes on computing.
    """

    def __init__(self, x_TCHW: Tensor) -> None:
        self.shape, self.dtype, self._device = x_TCHW.shape, x_TCHW.dtype, x_TCHW.device
        is_cuda = x_TCHW.is_cuda
        self._host = torch.empty_like(x_TCHW, device="cpu", pin_memory=is_cuda)
        if not is_cuda:
            self._host.copy_(x_TCHW)
            return
        stream = _copying(x_TCHW.device)
        stream.wait_stream(torch.cuda.current_stream(x_TCHW.device))
        with torch.cuda.stream(stream):
            self._host.copy_(x_TCHW, non_blocking=True)
        x_TCHW.record_stream(stream)  # its memory is not used anew before the copy is done

    def __getitem__(self, frames: slice) -> Tensor:
        part = self._host[frames]
        if self._device.type != "cuda":
            return part.to(self._device, copy=True)
        here = torch.cuda.current_stream(self._device)
        here.wait_stream(_copying(self._device))  # this skip has arrived on the host
        return part.to(self._device, non_blocking=True)


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _copying(device: torch.device) -> torch.cuda.Stream:
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    return _streams[device]


class LazyFrames:
    """Frames that are computed when they are asked for, so that never all of them are there.

    Args:
        compute: frames of the result from frames of x.
        x_TCHW: [T, C, h, w].
        shape: of the result.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor], x_TCHW: Tensor, shape: tuple[int, ...]) -> None:
        self._compute, self._x_TCHW = compute, x_TCHW
        self.shape, self.dtype = torch.Size(shape), x_TCHW.dtype

    def __getitem__(self, frames: slice) -> Tensor:
        return self._compute(self._x_TCHW[frames])
