"""Nearest-neighbour upsampling followed by a convolution, without the larger map between them.

Shapes: B items, C channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import convolved
from .effective_weights import effective_weights

_WORTHWHILE = 256  # cells; for fewer, adding up the taps takes longer than is saved (1280 channels on a CPU)


def upsampled_conv(conv: nn.Module, x_BCHW: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """3x3 convolution with padding 1 of x grown to `size`, else to twice its height and width."""
    if size in (None, (2 * x_BCHW.shape[2], 2 * x_BCHW.shape[3])):
        return doubled_conv(conv, x_BCHW)(x_BCHW)
    return convolved(conv, F.interpolate(x_BCHW, size, mode="nearest"))


def doubled_conv(conv: nn.Module, like: Tensor) -> Callable[[Tensor], Tensor]:
    """3x3 convolution with padding 1 of a map grown to twice its height and width, as a function of the map.

    Four 2x2 convolutions of the small map, one for each place in a doubled cell, with the taps added up that meet the
    same cell: 4/9 of the work, the same within rounding. Call it for all pieces of an input: the taps are added here.

    Args:
        conv: called itself where its weights are not to be had, and on small maps.
        like: [B, C, H, W], one of the pieces.
    """
    is_small = len(like) * like.shape[2] * like.shape[3] < _WORTHWHILE
    weights = None if is_small else effective_weights(conv, like)
    if weights is None:
        return lambda x_BCHW: convolved(conv, F.interpolate(x_BCHW, scale_factor=2, mode="nearest"))
    weight, bias = weights
    wide = weight if weight.dtype == torch.float64 else weight.float()
    by_place = [[part.to(weight) for part in _merge_taps(rows, 3)] for rows in _merge_taps(wide, 2)]
    return lambda x_BCHW: _by_place(x_BCHW, by_place, bias)


def empty_map(like: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """An empty [B, C, H, W] with channels last in memory where the given one has them there."""
    is_last = like.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def _merge_taps(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Three taps over doubled cells as two over cells: for the first place in a cell, and for the second."""
    before, here, after = weight.unbind(axis)
    return torch.stack((before, here + after), axis), torch.stack((before + here, after), axis)


def _by_place(x_BCHW: Tensor, by_place: list[list[Tensor]], bias: Tensor | None) -> Tensor:
    batch, _, height, width = x_BCHW.shape
    out_BCHW = empty_map(x_BCHW, (batch, len(by_place[0][0]), 2 * height, 2 * width))
    for row, weights in enumerate(by_place):
        for column, weight in enumerate(weights):
            # one row and column too many: the first place begins with the cell before, the second ends with that after
            part_BCHW = F.conv2d(x_BCHW, weight, bias, padding=1)
            out_BCHW[:, :, row::2, column::2] = part_BCHW[:, :, row : row + height, column : column + width]
            del part_BCHW  # else it would live on while the next is computed
    return out_BCHW
