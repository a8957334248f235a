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

# SVD was trained on 25 frames; beyond them, an untrained table repeats the last 20 positions, back and forth.
_LAST_FRAME = 24
_PERIOD = 20


class TemporalExtension(nn.Module):
    """Trainable frame positions and a 3x3x3 convolution, applied before temporal attention."""

    def __init__(self, channels: int, max_frames: int, ops: Ops = nn) -> None:
        super().__init__()
        self.positions = ops.Embedding(max_frames, channels)  # a layer, so that hosts can offload it
        self.mix = ops.Conv3d(channels, channels, kernel_size=3)

    def reset(self, folded: bool = True) -> None:
        """Initialise as the base model: its positions, folded or counted on, and an identity convolution."""
        max_frames, channels = self.positions.weight.shape
        frames = folded_positions(max_frames) if folded else torch.arange(max_frames)
        with torch.no_grad():
            self.positions.weight.copy_(sinusoid(frames, channels))
            nn.init.dirac_(self.mix.weight)
            nn.init.zeros_(self.mix.bias)

    def forward(
        self, x_BCTHW: Tensor, frame_ids: Tensor, embed: Callable[[Tensor], Tensor], chunk_bytes: int = CHUNK_BYTES
    ) -> Tensor:
        """Add frame positions and convolve over neighbouring frames and cells.

        `frame_ids` [T] are rows of the position table; `embed` is the base model's position MLP, [T, C] to [T, C].
        """
        position_TC = embed(self.positions(frame_ids).to(x_BCTHW.dtype))
        if torch.is_grad_enabled() or len(x_BCTHW) > 1:
            return self._mix_padded(x_BCTHW + rearrange(position_TC, "T C -> 1 C T 1 1"))
        x_THWC = rearrange(x_BCTHW, "1 C T H W -> T H W C")
        cells = _reflected_cells(x_THWC)
        # padded copy, and the result of each of the three temporal taps
        size = items_within(chunk_bytes, 3 * x_THWC[0].numel() * x_THWC.element_size())
        mix = bind_conv3d(self.mix, x_BCTHW)

        def chunk(frames: slice) -> Tensor:
            padded_THWC = _gather_cells(x_THWC, position_TC, cells[frames.start : frames.stop + 2])
            return rearrange(mix(rearrange(padded_THWC, "T H W C -> 1 C T H W")), "1 C T H W -> T H W C")

        return rearrange(map_chunks(chunk, len(x_THWC), size), "T H W C -> 1 C T H W")

    def _mix_padded(self, x_BCTHW: Tensor) -> Tensor:
        # padded here, because some host convolutions silently ignore padding_mode="reflect" and pad with zeros
        padded_BCTHW = F.pad(x_BCTHW, (1, 1, 1, 1, 1, 1), mode="reflect")
        # a no-op unless a host's hook made a view of the input, whose layout would change the rounding of what follows
        return self.mix(padded_BCTHW.contiguous(memory_format=torch.channels_last_3d))


def _reflected_cells(x_THWC: Tensor) -> Tensor:
    """Flat index into T H W of each cell of a clip padded by one on all six sides: [T + 2, H + 2, W + 2]."""
    _, height, width, _ = x_THWC.shape
    t, h, w = (_reflected(length, x_THWC.device) for length in x_THWC.shape[:3])
    return (t[:, None, None] * height + h[:, None]) * width + w


def _reflected(length: int, device: torch.device) -> Tensor:
    """Indices of reflection padding by one: 1, 0, 1, ..., length - 1, length - 2."""
    indices = torch.arange(-1, length + 1, device=device).abs()
    return length - 1 - (length - 1 - indices).abs()


def _gather_cells(x_THWC: Tensor, position_TC: Tensor, cells_THW: Tensor) -> Tensor:
    """Cells of x by flat index, with the position of their frame added: [*cells, C]."""
    channels = x_THWC.shape[-1]
    gathered = x_THWC.reshape(-1, channels).index_select(0, cells_THW.flatten()).view(*cells_THW.shape, channels)
    frames = cells_THW[:, 0, 0] // (x_THWC.shape[1] * x_THWC.shape[2])
    return gathered.add_(position_TC[frames][:, None, None])


def folded_positions(max_frames: int) -> Tensor:
    """Positions of the base model that initialise each row of the table: 0..24, then 23..4, 5..24, 23..4 and so on."""
    frames = torch.arange(max_frames)
    folded = _LAST_FRAME - _PERIOD + ((frames - _LAST_FRAME) % (2 * _PERIOD) - _PERIOD).abs()
    return torch.where(frames <= _LAST_FRAME, frames, folded)
