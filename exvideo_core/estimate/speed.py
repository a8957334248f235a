"""Speed of a device, measured, and the time that counted work takes at that speed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..nn.attention import BACKENDS
from .counting import ATTENTION, CONVOLUTION, ELEMENTWISE, PRODUCT, Counts


@dataclass(frozen=True, kw_only=True)
class Work:
    """Work of a call or a clip, in floating point operations; a multiply-add is two."""

    products: float = 0.0  # of matrices
    convolutions: float = 0.0
    attention: float = 0.0  # its cores alone
    moved: float = 0.0  # bytes that all other operations read and write
    operations: float = 0.0  # how many kernels are called

    @property
    def flops(self) -> float:
        """Floating point operations of all kinds."""
        return self.products + self.convolutions + self.attention

    def __add__(self, other: Work) -> Work:
        return Work(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def __mul__(self, times: float) -> Work:
        return Work(**{name: times * value for name, value in vars(self).items()})


def work_of(counts: Counts) -> Work:
    """Counts as Work."""
    return Work(
        products=counts.flops.get(PRODUCT, 0),
        convolutions=counts.flops.get(CONVOLUTION, 0),
        attention=counts.flops.get(ATTENTION, 0),
        moved=counts.moved.get(ELEMENTWISE, 0),
        operations=counts.operations,
    )


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Speed of a device in one dtype, in floating point operations a second."""

    products: float
    convolutions: float
    attention: float
    moved: float  # bytes a second
    call: float  # seconds from one small operation to the next
    is_queued: bool  # whether operations run asynchronously, so that launching them costs no time of its own


# Share of the speed of large, regular shapes that the networks' own shapes reach, by comparison with runs; attention is
# measured with a shape like theirs.
_REACHED = 0.5


def seconds(work: Work, speed: Speed) -> float:
    """Duration of the work, within a factor of about 2."""
    launched = work.operations * speed.call
    rest = work.products / speed.products + work.convolutions / speed.convolutions + work.moved / speed.moved
    done = rest / _REACHED + work.attention / speed.attention
    return max(launched, done) if speed.is_queued else launched + done


# enough that the fixed cost of a call is not seen, little enough to take no time: side of a product, side of a picture
# for a convolution of so many channels, tokens and heads of attention, bytes
_SMALL = (384, 32, 64, 512, 4, 2**24)
_LARGE = (4096, 128, 320, 4096, 16, 2**26)


@functools.cache
@torch.inference_mode()
def probe(device: torch.device, dtype: torch.dtype) -> Speed:
    """Measure a device: some 0.1 s, once."""
    side, picture, channels, tokens, heads, num_bytes = _SMALL if device.type == "cpu" else _LARGE

    def ones(*shape: int) -> Tensor:
        return torch.ones(shape, dtype=dtype, device=device)

    matrix, q = ones(side, side), ones(1, heads, tokens, 64)
    x, weight = ones(1, channels, picture, picture), ones(channels, channels, 3, 3)
    block, few = ones(num_bytes // dtype.itemsize), ones(8)
    attend = BACKENDS["auto"]
    return Speed(
        products=2 * side**3 / _fastest(lambda: matrix @ matrix, device),
        convolutions=2 * 9 * channels**2 * picture**2 / _fastest(lambda: F.conv2d(x, weight, padding=1), device),
        attention=4 * heads * tokens**2 * 64 / _fastest(lambda: attend(q, q, q), device),
        moved=2 * num_bytes / _fastest(lambda: block + 1, device),
        call=_fastest(lambda: [few + 1 for _ in range(100)], device) / 100 * _AROUND_A_CALL,
        is_queued=device.type != "cpu",
    )


_AROUND_A_CALL = 5  # of a network's time for each operation to that of a bare addition: modules, shapes, views


def _fastest(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of three calls, after a first that may choose kernels."""
    times = []
    for _ in range(4):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "mps":
        torch.mps.synchronize()  # which takes no device
    elif device.type != "cpu":
        getattr(torch, device.type).synchronize(device)  # torch.cuda, torch.xpu
