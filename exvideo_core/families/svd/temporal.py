"""ExVideo's temporal extension of Stable Video Diffusion (arXiv:2406.14130).

Shapes: B clips, C channels, T frames, H and W latent height and width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...nn.chunks import CHUNK_BYTES, items_within, map_chunks
from ...nn.conv3d import bind_conv3d
from ...nn.layers import Ops, sinusoid

# SVD was trained on 25 frames; past them, untrained positions walk back and forth over 20 known ones.
_BASE_FRAMES = 25
_WALK = 20


class TemporalExtension(nn.Module):
    """Trainable frame positions and a 3x3x3 convolution, applied before temporal attention."""

    def __init__(self, channels: int, max_frames: int, ops: Ops = nn) -> None:
        super().__init__()
        self.positions = ops.Embedding(max_frames, channels)  # a layer, so that hosts can offload it
        self.mix = ops.Conv3d(channels, channels, kernel_size=3)

    def reset(self, folded: bool = True) -> None:
        """Start as the base model: its own positions where it has them, and a convolution that does nothing.

        Past the base's last frame its positions are folded (see `folded_positions`), or count on.
        """
        max_frames, channels = self.positions.weight.shape
        places = folded_positions(max_frames) if folded else torch.arange(max_frames)
        with torch.no_grad():
            self.positions.weight.copy_(sinusoid(places, channels))
            nn.init.dirac_(self.mix.weight)
            nn.init.zeros_(self.mix.bias)

    def forward(
        self,
        x_BCTHW: Tensor,
        frame_ids: Tensor,
        embed: Callable[[Tensor], Tensor],
        chunk_bytes: int = CHUNK_BYTES,
    ) -> Tensor:
        """Position and mix neighbouring frames and cells; `embed` is the base's own network, [T, C] to [T, C]."""
        position_TC = embed(self.positions(frame_ids).to(x_BCTHW.dtype))
        if torch.is_grad_enabled() or len(x_BCTHW) > 1:
            return self._mix_whole(x_BCTHW + rearrange(position_TC, "T C -> 1 C T 1 1"))
        x_THWC = rearrange(x_BCTHW, "1 C T H W -> T H W C")
        cells = _reflected_cells(x_THWC)
        # copied with borders, and the result of each of three taps
        size = items_within(chunk_bytes, 3 * x_THWC[0].numel() * x_THWC.element_size())

        mix = bind_conv3d(self.mix, x_BCTHW)

        def mixed(frames: slice) -> Tensor:
            padded_THWC = _with_borders(x_THWC, position_TC, cells[frames.start : frames.stop + 2])
            return rearrange(mix(rearrange(padded_THWC, "T H W C -> 1 C T H W")), "1 C T H W -> T H W C")

        return rearrange(map_chunks(mixed, len(x_THWC), size), "T H W C -> 1 C T H W")

    def _mix_whole(self, x_BCTHW: Tensor) -> Tensor:
        # padded here: with padding_mode="reflect" some host convolutions silently pad with zeros
        padded_BCTHW = F.pad(x_BCTHW, (1, 1, 1, 1, 1, 1), mode="reflect")
        # as it is laid out already, unless a host's hooks made a view of the input: then the layout, and with it the
        # rounding of all that follows, would depend on them
        return self.mix(padded_BCTHW.contiguous(memory_format=torch.channels_last_3d))


def _reflected_cells(x_THWC: Tensor) -> Tensor:
    """Where each cell of a clip with a border on all six sides comes from: [T + 2, H + 2, W + 2], places in T H W."""
    _, height, width, _ = x_THWC.shape
    t, h, w = (_reflected(length, x_THWC.device) for length in x_THWC.shape[:3])
    return (t[:, None, None] * height + h[:, None]) * width + w


def _reflected(length: int, device: torch.device) -> Tensor:
    """-1 to length, with the ends turned back: 1, 0, 1, ..., length - 1, length - 2."""
    places = torch.arange(-1, length + 1, device=device).abs()
    return length - 1 - (length - 1 - places).abs()


def _with_borders(x_THWC: Tensor, position_TC: Tensor, cells_THW: Tensor) -> Tensor:
    """Cells of a clip gathered from x, with the positions of their frames: [*cells, C]."""
    channels = x_THWC.shape[-1]
    gathered = x_THWC.reshape(-1, channels).index_select(0, cells_THW.flatten()).view(*cells_THW.shape, channels)
    frames = cells_THW[:, 0, 0] // (x_THWC.shape[1] * x_THWC.shape[2])
    return gathered.add_(position_TC[frames][:, None, None])


def folded_positions(max_frames: int) -> Tensor:
    """Base positions that an untrained table starts from: 0..24, then 23..4, 5..24, 23..4 and so on.

    Returns:
        [max_frames] int64.
    """
    frames = torch.arange(max_frames)
    beyond = (frames - _BASE_FRAMES) % (2 * _WALK)
    last = _BASE_FRAMES - 1
    walked = torch.where(beyond < _WALK, last - 1 - beyond, beyond - _WALK + last - _WALK + 1)
    return torch.where(frames < _BASE_FRAMES, frames, walked)
