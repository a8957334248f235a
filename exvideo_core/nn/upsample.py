"""Nearest-neighbour upsampling and a convolution, without the upsampled map between them.

Shapes: B items, C channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .chunks import empty_map
from .convolution import channels_last_on_gpu, convolved
from .effective_weights import effective_weights

_WORTHWHILE = 256  # cells; for fewer, merging taps takes longer than it saves (1280 channels on a CPU)


def upsampled_conv(conv: nn.Module, x_BCHW: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """3x3 convolution with padding 1 of x upsampled to `size`, by default to twice its height and width."""
    if size in (None, (2 * x_BCHW.shape[2], 2 * x_BCHW.shape[3])):
        return doubled_conv(conv, x_BCHW)(x_BCHW)
    return convolved(conv, F.interpolate(x_BCHW, size, mode="nearest"))


def doubled_conv(conv: nn.Module, like: Tensor) -> Callable[[Tensor], Tensor]:
    """Bind a 3x3 convolution with padding 1 of a map upsampled to twice its height and width; a function of the map.

    It runs four 2x2 convolutions of the small map, one for each place in a doubled cell, with the taps that meet the
    same cell merged: 4/9 of the work, equal within rounding. The taps are merged here: call it for all chunks.

    Args:
        conv: called itself if it must be (see `effective_weights`), and on small maps.
        like: [B, C, H, W], one of the chunks.
    """
    is_small = len(like) * like.shape[2] * like.shape[3] < _WORTHWHILE
    weights = None if is_small else effective_weights(conv, like)
    if weights is None:
        return lambda x_BCHW: convolved(conv, F.interpolate(x_BCHW, scale_factor=2, mode="nearest"))
    weight, bias = weights
    wide = weight if weight.dtype == torch.float64 else weight.float()
    by_place = [
        [channels_last_on_gpu(part.to(weight)) for part in _merge_taps(rows, 3)] for rows in _merge_taps(wide, 2)
    ]
    return lambda x_BCHW: _by_place(x_BCHW, by_place, bias)


def _merge_taps(weight: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Merge three taps over doubled cells into two over cells: for the first and the second place in a cell."""
    before, here, after = weight.unbind(axis)
    return torch.stack((before, here + after), axis), torch.stack((before + here, after), axis)


def _by_place(x_BCHW: Tensor, by_place: list[list[Tensor]], bias: Tensor | None) -> Tensor:
    batch, _, height, width = x_BCHW.shape
    out_BCHW = empty_map(x_BCHW, (batch, len(by_place[0][0]), 2 * height, 2 * width))
    # on a GPU the bias would be a kernel of its own, and is added as the part is stored
    added = bias[:, None, None] if bias is not None and x_BCHW.is_cuda else None
    for row, weights in enumerate(by_place):
        for column, weight in enumerate(weights):
            # one row and column too many: the first place starts at the cell before, the second ends at the cell after
            part_BCHW = F.conv2d(x_BCHW, weight, bias if added is None else None, padding=1)
            cells_BCHW = part_BCHW[:, :, row : row + height, column : column + width]
            place_BCHW = out_BCHW[:, :, row::2, column::2]
            if added is None:
                place_BCHW.copy_(cells_BCHW)
            else:
                torch.add(cells_BCHW, added, out=place_BCHW)
            del part_BCHW, cells_BCHW  # else it stays in memory while the next is computed
    return out_BCHW
