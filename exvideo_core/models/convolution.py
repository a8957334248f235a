"""Convolutions on the CPU where the weights are larger than the input, as on the deep levels of small pictures.

There a convolution first brings its weights, and with channels last in memory a copy of them, into an order of its
own, which takes longer than the sum.
Shapes: B items, C channels, O channels of the result, X axes of space and time, K taps.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .folding import Weights, live_weights

_FEW = 8  # times as many output channels as positions (measured: at 4, a convolution of images is as fast)


def convolved(conv: nn.Module, x_BCX: Tensor) -> Tensor:
    """What a Conv2d or Conv3d gives for x, within rounding."""
    assert isinstance(conv, nn.Conv2d | nn.Conv3d)
    if x_BCX.device.type != "cpu" or torch.is_grad_enabled():
        return conv(x_BCX)
    taps = math.prod(conv.kernel_size)
    if taps == 1 or len(x_BCX) * _positions(conv, x_BCX) * _FEW <= conv.out_channels:
        weights = live_weights(conv, x_BCX)
        if weights is not None:
            return _as_product(conv, x_BCX, weights)
    if taps * conv.in_channels * conv.out_channels > x_BCX.numel():
        x_BCX = x_BCX.contiguous()  # little to copy, but else the weights would be copied to the layout of x
    return conv(x_BCX)


def _positions(conv: nn.Conv2d | nn.Conv3d, x_BCX: Tensor) -> int:
    """Cells of the result, without batch and channels."""
    sides = zip(x_BCX.shape[2:], conv.kernel_size, conv.stride, _paddings(conv), strict=True)
    return math.prod((side + 2 * padding - size) // step + 1 for side, size, step, padding in sides)


def _paddings(conv: nn.Conv2d | nn.Conv3d) -> tuple[int, ...]:
    return conv.padding  # type: ignore[return-value]  # never words here


def _as_product(conv: nn.Conv2d | nn.Conv3d, x_BCX: Tensor, weights: Weights) -> Tensor:
    """All taps of every position gathered, times the weights as they are."""
    weight_OCK, bias = weights
    patches = F.pad(x_BCX, [padding for padding in reversed(_paddings(conv)) for _ in range(2)])
    for axis, (size, step) in enumerate(zip(conv.kernel_size, conv.stride, strict=True), start=2):
        patches = patches.unfold(axis, size, step)
    patches = patches.movedim(1, -1 - len(conv.kernel_size))  # [B, *X, C, *K]
    out_BXO = F.linear(patches.flatten(-1 - len(conv.kernel_size)), weight_OCK.flatten(1), bias)
    return out_BXO.movedim(-1, 1)
