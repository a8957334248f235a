"""A clip that is decoded while it is read, so that it is never whole in memory.

Shapes: T frames, H and W height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from ..nn.out_of_memory import resumed_with_smaller_tiles
from . import oom_hints
from .memory import on_own_device


class DecodedFrames:
    """Frames [H, W, 3] of a clip, float32 in [0, 1] on the CPU; each iteration decodes from the start.

    Args:
        count: T.
        decode: spans [t, H, W, 3] of all frames in order, given the side of the tiles in latent cells, or None.
        side: the longer side of a frame, or of the tiles that it is always cut into, in latent cells. Out of memory,
            the frames that follow are decoded in smaller tiles.
        device: that decodes.
    """

    def __init__(
        self, count: int, decode: Callable[[int | None], Iterator[Tensor]], side: int, device: torch.device
    ) -> None:
        self.device = device
        self._count, self._decode, self._side = count, decode, side

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Tensor]:
        for span_THWC in self._spans():
            for frame_HWC in span_THWC:
                yield frame_HWC.clone()  # the span is in page-locked memory, which a list of frames must not hold

    def whole(self) -> Tensor:
        """All frames, [T, H, W, 3]."""
        return concatenated(self._spans(), self._count)

    def _spans(self) -> Iterator[Tensor]:
        spans = resumed_with_smaller_tiles(self._decode, self._side)
        while (span := self._next(spans)) is not None:
            yield span

    @torch.inference_mode()
    @oom_hints.decoding
    @on_own_device
    def _next(self, spans: Iterator[Tensor]) -> Tensor | None:
        return next(spans, None)


def concatenated(spans: Iterable[Tensor], count: int, axis: int = 0) -> Tensor:
    """Concatenate spans of `count` frames in all, holding one of them at a time."""
    out, done = None, 0
    for span in spans:
        if out is None:
            out = span.new_empty([count if dim == axis else length for dim, length in enumerate(span.shape)])
        out.narrow(axis, done, span.shape[axis]).copy_(span)
        done += span.shape[axis]
    assert out is not None, "a clip has frames"
    assert done == count, "the spans are all frames"
    return out
