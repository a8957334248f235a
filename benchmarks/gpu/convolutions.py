"""Convolutions at the shapes of the published networks: by memory layout, and 3x3x3 as three 2D ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.bench import Bench, name_of, relative_error
from benchmarks.gpu.timing import rate, timed
from benchmarks.gpu.variants import trying_convolutions

# Images, channels, channels of the result, height and width; kernels are 3x3.
_SHAPES = {
    "SVD, 320 channels": (32, 320, 320, 64),
    "SVD, with a skip": (32, 640, 320, 64),
    "SVD, 1280 channels": (128, 1280, 1280, 16),
    "SVD's VAE, 128 channels": (4, 128, 128, 512),
    "SVD's VAE, 512 channels": (8, 512, 512, 128),
}


def by_layout(bench: Bench) -> None:
    """3x3 convolutions with inputs and weights channels-first and channels-last."""
    for where, shape in _SHAPES.items():
        images, channels, out_channels, side = bench.size(shape, (1, 16, 16, 8))
        x = bench.random(images, channels, side, side, dtype=bench.half)
        weight = bench.random(out_channels, channels, 3, 3, dtype=bench.half, seed=2) / math.sqrt(9 * channels)
        bias = bench.random(out_channels, dtype=bench.half, seed=3)
        operations = 2 * images * out_channels * side**2 * channels * 9
        for how, call in _ways(x, weight, bias).items():
            bench.record.put(f"{where}: {how}", **rate(operations, timed(bench, call, 5, 2).numbers))
        with trying_convolutions():
            call = _ways(x, weight, bias)["both channels-last"]
            bench.record.put(f"{where}: cudnn.benchmark", **rate(operations, timed(bench, call, 5, 2).numbers))
        bench.free()


def _ways(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Callable[[], Tensor]]:
    last_x, last_weight = (each.contiguous(memory_format=torch.channels_last) for each in (x, weight))
    return {
        "channels-first": lambda: F.conv2d(x, weight, bias, padding=1),
        "input channels-last": lambda: F.conv2d(last_x, weight, bias, padding=1),
        "both channels-last": lambda: F.conv2d(last_x, last_weight, bias, padding=1),
        "without bias": lambda: F.conv2d(last_x, last_weight, padding=1),
    }


def of_three_frames(bench: Bench) -> None:
    """3x3x3 convolutions, and the same as three 2D convolutions."""
    frames, channels, side = bench.size((32, 320, 64), (2, 8, 8))
    for dtype in dict.fromkeys((bench.half, bench.brain)):
        x_1CTHW = bench.random(1, channels, frames + 2, side + 2, side + 2, dtype=dtype)
        x_1CTHW = x_1CTHW.contiguous(memory_format=torch.channels_last_3d)
        weight = bench.random(channels, channels, 3, 3, 3, dtype=dtype, seed=2) / math.sqrt(27 * channels)
        operations = 2 * 27 * channels**2 * side**2 * frames
        calls = _ways_in_3d(x_1CTHW, weight)
        reference = calls["conv3d"]()
        for how, call in calls.items():
            numbers, result = timed(bench, call)
            error = relative_error(result, reference)
            bench.record.put(how, dtype=name_of(dtype), error=error, **rate(operations, numbers))


def _ways_in_3d(x_1CTHW: Tensor, weight: Tensor) -> dict[str, Callable[[], Tensor]]:
    last_weight = weight.contiguous(memory_format=torch.channels_last_3d)
    taps = [tap.contiguous(memory_format=torch.channels_last) for tap in weight.unbind(2)]
    return {
        "conv3d": lambda: F.conv3d(x_1CTHW, weight),
        "conv3d, weight channels-last": lambda: F.conv3d(x_1CTHW, last_weight),
        "three conv2d": lambda: _three(x_1CTHW, taps),
    }


def _three(x_1CTHW: Tensor, taps: list[Tensor]) -> Tensor:
    """The sum of the convolutions of the frame before, the frame, and the frame after, for each frame."""
    x_TCHW, frames = x_1CTHW[0].transpose(0, 1), x_1CTHW.shape[2] - 2
    out_TCHW = F.conv2d(x_TCHW[:frames], taps[0])
    for index in (1, 2):
        out_TCHW += F.conv2d(x_TCHW[index : index + frames], taps[index])
    return out_TCHW.transpose(0, 1)[None]
