"""Overlapping windows on any number of axes, and the weights that blend them.

A result is the weighted mean of all windows that cover a point. Weights fall off linearly from a window's
inner border; towards the border of the whole clip they stay full, so that edges are not darkened.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """Windows along one axis: its length, the size of a window and the step from one to the next."""

    length: int
    size: int
    stride: int

    def windows(self) -> list[tuple[int, int]]:
        """Start and end of every window; those that would only repeat what the one before covers are left out."""
        starts = range(0, self.length, self.stride)
        needed = [s for s in starts if s == 0 or s - self.stride + self.size < self.length]
        return [(s, min(s + self.size, self.length)) for s in needed]


def tiles(axes: Sequence[Axis]) -> Iterator[tuple[tuple[int, int], ...]]:
    """All combinations of the axes' windows, the last axis fastest."""
    return itertools.product(*(axis.windows() for axis in axes))


def blend_weight(spans: Sequence[tuple[int, int]], lengths: Sequence[int]) -> Tensor:
    """Weight of every point of one window, as DiffSynth-Studio 1.1.9 blends its tiles.

    The weight is the distance to the nearest inner face, counted from 1, over a border of a third of the mean side.

    Args:
        spans: start and end of the window on each axis, in output units.
        lengths: length of each axis as a whole.

    Returns:
        float32 in (0, 1], one axis for each span.
    """
    sizes = [end - start for start, end in spans]
    border = max(1, sum(sizes) // (2 * len(sizes)))
    weight = torch.full(sizes, float(border))
    for axis, ((start, end), length) in enumerate(zip(spans, lengths, strict=True)):
        place = torch.arange(end - start, dtype=torch.float32)
        shape = [-1 if i == axis else 1 for i in range(len(sizes))]
        if start > 0:
            weight = torch.minimum(weight, (place + 1).view(shape))
        if end < length:
            weight = torch.minimum(weight, (end - start - place).view(shape))
    return weight.clamp(1, border) / border
