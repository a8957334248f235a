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
from ...nn.conv3d import bind_conv3d, bind_taps
from ...nn.effective_weights import Weights, effective_weights
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
        convolved = self._bind_mix(x_THWC, position_TC)

        def chunk(frames: slice) -> Tensor:
            return convolved(cells[frames.start : frames.stop + 2], frames)

        return rearrange(map_chunks(chunk, len(x_THWC), size), "T H W C -> 1 C T H W")

    def _bind_mix(self, x_THWC: Tensor, position_TC: Tensor) -> Callable[[Tensor, slice], Tensor]:
        """The convolution of x with positions, by the flat index of padded cells and the frames of the result."""
        weights = effective_weights(self.mix, x_THWC) if x_THWC.is_cuda else None
        if weights is not None:  # positions are the same in all cells of a frame: so is what becomes of them
            convolve, constant_TC = bind_taps(weights[0]), _mixed(weights, position_TC)

            def of_cells(cells_THW: Tensor, frames: slice) -> Tensor:
                padded = rearrange(_gather(x_THWC, cells_THW), "T H W C -> 1 C T H W")
                return rearrange(convolve(padded, constant_TC[frames]), "T C H W -> T H W C")

            return of_cells
        mix = bind_conv3d(self.mix, x_THWC)

        def with_positions(cells_THW: Tensor, _frames: slice) -> Tensor:
            frames = cells_THW[:, 0, 0] // (x_THWC.shape[1] * x_THWC.shape[2])
            padded_THWC = _gather(x_THWC, cells_THW).add_(position_TC[frames][:, None, None])
            return rearrange(mix(rearrange(padded_THWC, "T H W C -> 1 C T H W")), "1 C T H W -> T H W C")

        return with_positions

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


def _gather(x_THWC: Tensor, cells_THW: Tensor) -> Tensor:
    """Cells of x by flat index: [*cells, C]."""
    channels = x_THWC.shape[-1]
    return x_THWC.reshape(-1, channels).index_select(0, cells_THW.flatten()).view(*cells_THW.shape, channels)


def _mixed(weights: Weights, position_TC: Tensor) -> Tensor:
    """The convolution, with its bias, of a clip that is its positions in every cell: [T, C], in float32."""
    (weight_OCKHW, bias_O), wide = weights, torch.promote_types(position_TC.dtype, torch.float32)
    padded_TC = position_TC[_reflected(len(position_TC), position_TC.device)].to(wide)
    mixed_TO = torch.einsum("TCK,OCK->TO", padded_TC.unfold(0, 3, 1), weight_OCKHW.sum((3, 4), dtype=wide))
    return mixed_TO if bias_O is None else mixed_TO + bias_O.to(wide)


def folded_positions(max_frames: int) -> Tensor:
    """Positions of the base model that initialise each row of the table: 0..24, then 23..4, 5..24, 23..4 and so on."""
    frames = torch.arange(max_frames)
    folded = _LAST_FRAME - _PERIOD + ((frames - _LAST_FRAME) % (2 * _PERIOD) - _PERIOD).abs()
    return torch.where(frames <= _LAST_FRAME, frames, folded)
