"""Convolutions over time and space as convolutions of images, which are faster.

In half precision some cuDNN versions have no fast convolution of volumes, and torch then takes many times the memory.
Shapes: B clips, C channels, T frames, H W height and width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import convolved
from .folding import Weights, live_weights


def conv3d(layer: nn.Module, x_BCTHW: Tensor) -> Tensor:
    """What the layer gives for x, within rounding.

    Args:
        layer: a Conv3d of 1x1x1, of 3x1x1, or of 3x3x3 that does not pad time.
        x_BCTHW: any layout; channels that come last in memory do in the result too.
    """
    weights = live_weights(layer, x_BCTHW)
    if weights is None:
        return convolved(layer, x_BCTHW)
    if weights[0].shape[3:] == (1, 1):
        return _over_time(layer, x_BCTHW, weights)
    return _over_frames(layer, x_BCTHW, weights) if _by_frames(x_BCTHW) else layer(x_BCTHW)


def _by_frames(x: Tensor) -> bool:
    return x.device.type != "cpu"  # there the convolution of volumes is faster by a half


def _over_time(layer: nn.Module, x_BCTHW: Tensor, weights: Weights) -> Tensor:
    """One convolution of an image whose rows are the frames, and whose columns all cells."""
    weight, bias = weights
    padding: tuple[int, ...] = layer.padding  # type: ignore[assignment]  # of every Conv3d
    x_BTLC = x_BCTHW.permute(0, 2, 3, 4, 1).flatten(2, 3)  # with channels last, so that one clip's stride stays right
    out_BCTL = F.conv2d(x_BTLC.permute(0, 3, 1, 2), weight.squeeze(-1), bias, padding=(padding[0], 0))
    return out_BCTL.unflatten(3, x_BCTHW.shape[3:])


def _over_frames(layer: nn.Module, x_BCTHW: Tensor, weights: Weights) -> Tensor:
    """The sum of three convolutions per frame: of those before, of those in the middle, of those after."""
    weight, bias = weights
    padding: tuple[int, ...] = layer.padding  # type: ignore[assignment]  # of every Conv3d
    batch, frames = len(x_BCTHW), x_BCTHW.shape[2] - 2

    def convolve(tap: int, bias: Tensor | None = None) -> Tensor:
        x_NCHW = x_BCTHW[:, :, tap : tap + frames].transpose(1, 2).flatten(0, 1)
        return F.conv2d(x_NCHW, weight[:, :, tap], bias, padding=padding[1:])

    out_NCHW = convolve(0, bias)
    for tap in (1, 2):
        out_NCHW += convolve(tap)
    return out_NCHW.unflatten(0, (batch, frames)).transpose(1, 2)
