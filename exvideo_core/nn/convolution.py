"""Convolutions bound to their effective weights, for many chunks of one input, with fast paths on the CPU.

Where the weights are larger than the input (deep levels of small images), oneDNN spends more time on reordering the
weights, and with channels-last on copying them, than on the convolution.
Shapes: B items, C channels, O channels of the result, X axes of space and time, K taps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .effective_weights import Weights, effective_weights
from .linear import product

_FEW = 8  # times as many output channels as positions (measured: at 4, conv2d is as fast)


def channels_last_on_gpu(x_BCX: Tensor) -> Tensor:
    """x [B, C, H, W] or [B, C, T, H, W] in channels-last memory, which is faster on a GPU; unchanged on the CPU."""
    if x_BCX.device.type == "cpu":
        return x_BCX
    return x_BCX.contiguous(memory_format=torch.channels_last if x_BCX.ndim == 4 else torch.channels_last_3d)


def lay_out_weights(network: nn.Module) -> None:
    """Lay the weights of 2D convolutions out channels-last on a GPU, or its kernels would at every call."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = channels_last_on_gpu(layer.weight.data)


def bind_conv(conv: nn.Module, like: Tensor) -> Callable[[Tensor], Tensor]:
    """Bind a Conv2d or Conv3d to its effective weights, equal within rounding; the layer itself if it must be called.

    Args:
        conv: its padding is numeric.
        like: has the device and dtype of the inputs.
    """
    weights = effective_weights(conv, like)
    if weights is None:
        return conv
    assert isinstance(conv, nn.Conv2d | nn.Conv3d)
    weight, bias = weights
    return partial(_convolved, conv, (channels_last_on_gpu(weight), bias))


def bind_conv_and_bias(conv: nn.Module, like: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
    """`bind_conv`, on a GPU without the bias, for which cuDNN's path has a kernel of its own; and that bias [O].

    The bias is None where the convolution adds it itself.
    """
    weights = effective_weights(conv, like) if like.is_cuda else None
    if weights is None:
        return bind_conv(conv, like), None
    assert isinstance(conv, nn.Conv2d | nn.Conv3d)
    weight, bias = weights
    return partial(_convolved, conv, (channels_last_on_gpu(weight), None)), bias


def convolved(conv: nn.Module, x_BCX: Tensor) -> Tensor:
    """`conv(x)` for a Conv2d or Conv3d, within rounding."""
    return bind_conv(conv, x_BCX)(x_BCX)


def _convolved(conv: nn.Conv2d | nn.Conv3d, weights: Weights, x_BCX: Tensor) -> Tensor:
    weight, bias = weights
    if x_BCX.device.type == "cpu":
        is_pointwise = math.prod(conv.kernel_size) == 1
        if is_pointwise or len(x_BCX) * _positions(conv, x_BCX) * _FEW <= conv.out_channels:
            return _as_product(conv, weights, x_BCX)
        if weight.numel() > x_BCX.numel():
            x_BCX = x_BCX.contiguous()  # a small copy; else the weights are copied to the layout of x
    convolve = F.conv2d if x_BCX.ndim == 4 else F.conv3d
    return convolve(x_BCX, weight, bias, conv.stride, conv.padding)


def _positions(conv: nn.Conv2d | nn.Conv3d, x_BCX: Tensor) -> int:
    """Positions of the output."""
    sides = zip(x_BCX.shape[2:], conv.kernel_size, conv.stride, _paddings(conv), strict=True)
    return math.prod((side + 2 * padding - size) // step + 1 for side, size, step, padding in sides)


def _paddings(conv: nn.Conv2d | nn.Conv3d) -> tuple[int, ...]:
    return conv.padding  # type: ignore[return-value]  # never a word here


def _as_product(conv: nn.Conv2d | nn.Conv3d, weights: Weights, x_BCX: Tensor) -> Tensor:
    """The convolution as a matrix product of gathered patches and the weights."""
    weight_OCK, bias = weights
    patches = F.pad(x_BCX, [padding for padding in reversed(_paddings(conv)) for _ in range(2)])
    for axis, (size, step) in enumerate(zip(conv.kernel_size, conv.stride, strict=True), start=2):
        patches = patches.unfold(axis, size, step)
    patches = patches.movedim(1, -1 - len(conv.kernel_size))  # [B, *X, C, *K]
    out_BXO = product((weight_OCK.flatten(1), bias), patches.flatten(-1 - len(conv.kernel_size)))
    return out_BXO.movedim(-1, 1)
