"""ExVideo's temporal extension of Stable Video Diffusion (arXiv:2406.14130).

Shapes: B clips, C channels, T frames, H and W latent height and width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..layers import Ops, sinusoid

# SVD was trained on 25 frames; past them, untrained positions walk back and forth over 20 known ones.
_BASE_FRAMES = 25
_WALK = 20


class TemporalExtension(nn.Module):
    """Trainable frame positions and a 3x3x3 convolution, applied before temporal attention."""

    def __init__(self, channels: int, max_frames: int, ops: Ops = nn) -> None:
        super().__init__()
        self.positions = ops.Embedding(max_frames, channels)  # a layer, so that hosts can offload it
        self.mix = ops.Conv3d(channels, channels, kernel_size=3)

    def reset(self) -> None:
        """Start as the base model: its own positions where it has them, and a convolution that does nothing."""
        max_frames, channels = self.positions.weight.shape
        with torch.no_grad():
            self.positions.weight.copy_(sinusoid(folded_positions(max_frames), channels))
            nn.init.dirac_(self.mix.weight)
            nn.init.zeros_(self.mix.bias)

    def forward(self, x_BCTHW: Tensor, position_TC: Tensor) -> Tensor:
        """Add the (embedded) positions and mix neighbouring frames and cells."""
        x_BCTHW = x_BCTHW + rearrange(position_TC, "T C -> 1 C T 1 1")
        # padded here: with padding_mode="reflect" some host convolutions silently pad with zeros
        return self.mix(F.pad(x_BCTHW, (1, 1, 1, 1, 1, 1), mode="reflect"))


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
