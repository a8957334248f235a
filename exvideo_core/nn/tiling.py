"""Tiled decoding: overlapping windows on any number of axes, and the blend of what they decode to.

A result is the weighted mean of all windows that cover a point. Weights fall off linearly from a window's
inner border; towards the border of the whole clip they stay full, so that edges are not darkened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
    """The weighted mean of overlapping windows, summed in float32; frames are taken out as they are complete.

    Args:
        shape: of the result.
        dims: its dimensions that are cut into windows.
        frames: its dimension of frames, along which a window may arrive in chunks.
        windows: all of them, in units of the result.
        device: of the sums.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dims: Sequence[int],
        frames: int,
        windows: Iterable[Window],
        device: torch.device | str = "cpu",
    ) -> None:
        self.shape, self.dims, self.frames, self.taken = tuple(shape), dims, frames, 0
        # along others the weight is the same everywhere
        self._cut = {dim for each in windows for dim, span in zip(dims, each, strict=True) if span != (0, shape[dim])}
        # where windows are in the order of time, only frames that are not complete are held
        held = [0 if dim == frames and dim in dims else length for dim, length in enumerate(shape)]
        self.total = torch.zeros(held, device=device)
        self.weights = torch.zeros([n if dim in self._cut else 1 for dim, n in enumerate(held)], device=device)
        self._weight_of: dict[object, Tensor] = {}

    def add(self, window: Window, chunk: Tensor, start: int = 0) -> None:
        """Add a window, or the chunk of it that begins at frame `start`; the chunk is overwritten."""
        spans, count = dict(zip(self.dims, window, strict=True)), chunk.shape[self.frames]
        is_over_time = self.frames in self._cut
        first = (spans[self.frames][0] if is_over_time else 0) + start - self.taken
        self._hold(first + count)
        spans[self.frames] = first, first + count
        place = [slice(*spans[dim]) if dim in spans else slice(None) for dim in range(len(self.shape))]
        weight = self._weight(window)
        if is_over_time:
            weight = weight.narrow(self.frames, start, count)
        if is_over_time or start == 0:
            self.weights[tuple(span if dim in self._cut else slice(None) for dim, span in enumerate(place))] += weight
        self.total[tuple(place)] += chunk.to(self.total).mul_(weight)

    def take(self, end: int) -> Tensor:
        """Remove the frames before `end` that were not taken yet: their mean. No window to come may cover them."""
        count = end - self.taken
        done, self.total = _split(self.total, self.frames, count)
        weights = self.weights
        if self.frames in self._cut:
            weights, self.weights = _split(weights, self.frames, count)
        self.taken = end
        return done.div_(weights)

    def _hold(self, frames: int) -> None:
        """Make room for so many frames."""
        missing = frames - self.total.shape[self.frames]
        if missing > 0:
            self.total = _extended(self.total, self.frames, missing)
            if self.frames in self._cut:
                self.weights = _extended(self.weights, self.frames, missing)

    def _weight(self, window: Window) -> Tensor:
        """`blend_weight`, of length 1 along dimensions that are not cut; kept, because most windows share it."""
        lengths = [self.shape[dim] for dim in self.dims]
        key = tuple(
            (end - start, start > 0, end < length) for (start, end), length in zip(window, lengths, strict=True)
        )
        if key not in self._weight_of:
            weight = blend_weight(window, lengths, self.total.device)
            sizes = dict(zip(self.dims, weight.shape, strict=True))
            weight = weight.view([sizes.get(dim, 1) for dim in range(len(self.shape))])
            for dim in set(self.dims) - self._cut:
                weight = weight.narrow(dim, 0, 1)
            self._weight_of[key] = weight.clone()
        return self._weight_of[key]


def _split(x: Tensor, dim: int, length: int) -> tuple[Tensor, Tensor]:
    """The first part, of a length, and a copy of the rest, so that the first can be freed."""
    return x.narrow(dim, 0, length), x.narrow(dim, length, x.shape[dim] - length).clone()


def _extended(x: Tensor, dim: int, length: int) -> Tensor:
    """x with zeros after it."""
    return torch.cat([x, x.new_zeros([length if number == dim else n for number, n in enumerate(x.shape)])], dim)


def blend_weight(window: Window, lengths: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Weight of every point of one window, as DiffSynth-Studio 1.1.9 blends its tiles.

    The weight is the distance to the nearest inner face, counted from 1, over a border of a third of the mean side.

    Args:
        window: start and end on each axis, in units of the result.
        lengths: length of each axis as a whole.
        device: of the result.

    Returns:
        float32 in (0, 1], one axis for each of the window's.
    """
    sizes = [end - start for start, end in window]
    border = max(1, sum(sizes) // (2 * len(sizes)))
    weight = torch.full(sizes, float(border), device=device)
    for axis, ((start, end), length) in enumerate(zip(window, lengths, strict=True)):
        place = torch.arange(end - start, dtype=torch.float32, device=device)
        shape = [-1 if i == axis else 1 for i in range(len(sizes))]
        if start > 0:
            weight = torch.minimum(weight, (place + 1).view(shape))
        if end < length:
            weight = torch.minimum(weight, (end - start - place).view(shape))
    return weight.clamp(1, border) / border
