"""Tiled decoding: overlapping windows on any number of axes, and the blend of what they decode to.

A result is the weighted mean of all windows that cover a point. Weights fall off linearly from a window's
inner border; towards the border of the whole clip they stay full, so that edges are not darkened.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Window = tuple[tuple[int, int], ...]  # start and end on each axis


def windows(length: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Start and end of the windows along an axis, without windows that the one before covers entirely."""
    starts = [s for s in range(0, length, stride) if s == 0 or s - stride + size < length]
    return [(s, min(s + size, length)) for s in starts]


def tile_axes(height: int, width: int, tile: int | None) -> list[list[tuple[int, int]]]:
    """On each axis, the windows of square tiles that overlap by a quarter; one window if `tile` is None."""
    size = tile or max(height, width)
    return [windows(length, size, max(1, size * 3 // 4)) for length in (height, width)]


def scaled(window: Window, factors: Sequence[int]) -> Window:
    """A window of latents in units of the result: factors of 1, 8 or whatever a latent cell becomes on each axis."""
    return tuple((factor * start, factor * end) for factor, (start, end) in zip(factors, window, strict=True))


class Blend:
    """The weighted mean of overlapping windows, gathered in float32 on the CPU.

    Args:
        shape: of the result.
        dims: its dimensions that are cut into windows.
        frames: its dimension of frames, along which a window may arrive in chunks.
    """

    def __init__(self, shape: Sequence[int], dims: Sequence[int], frames: int) -> None:
        self.dims, self.frames = dims, frames
        self.total = torch.zeros(*shape)
        self.weights = torch.zeros([length if dim in dims else 1 for dim, length in enumerate(shape)])

    def add(self, window: Window, chunk: Tensor, start: int = 0) -> None:
        """Add a window, in units of the result, or the chunk of it that begins at frame `start`; it is overwritten."""
        place = [slice(None)] * self.total.ndim
        for dim, span in zip(self.dims, window, strict=True):
            place[dim] = slice(*span)
        covered = self.weights[tuple(place)]
        weight = blend_weight(window, [self.total.shape[dim] for dim in self.dims]).view(covered.shape)
        if start == 0:
            covered += weight
        total = self.total[tuple(place)].narrow(self.frames, start, chunk.shape[self.frames])
        total += chunk.float().cpu().mul_(weight)

    def mean(self) -> Tensor:
        """The blended result; it takes the place of the sums."""
        return self.total.div_(self.weights)


def blend_weight(window: Window, lengths: Sequence[int]) -> Tensor:
    """Weight of every point of one window, as DiffSynth-Studio 1.1.9 blends its tiles.

    The weight is the distance to the nearest inner face, counted from 1, over a border of a third of the mean side.

    Args:
        window: start and end on each axis, in units of the result.
        lengths: length of each axis as a whole.

    Returns:
        float32 in (0, 1], one axis for each of the window's.
    """
    sizes = [end - start for start, end in window]
    border = max(1, sum(sizes) // (2 * len(sizes)))
    weight = torch.full(sizes, float(border))
    for axis, ((start, end), length) in enumerate(zip(window, lengths, strict=True)):
        place = torch.arange(end - start, dtype=torch.float32)
        shape = [-1 if i == axis else 1 for i in range(len(sizes))]
        if start > 0:
            weight = torch.minimum(weight, (place + 1).view(shape))
        if end < length:
            weight = torch.minimum(weight, (end - start - place).view(shape))
    return weight.clamp(1, border) / border
