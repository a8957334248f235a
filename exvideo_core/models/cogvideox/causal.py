"""Convolutions that see only the past, for video that is worked on in pieces, and the blocks made of them.

Shapes: B clips, C channels, F frames, H W height and width, Z channels of the latents, T latent frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..layers import Ops, norm_groups

# Last frames that each convolution has seen, for the piece that follows; a new clip starts with an empty one.
Past = dict[nn.Module, Tensor]

_EPS = 1e-6


class CausalConv3d(nn.Module):
    """3x3x3 convolution over the current frame and the two before; before the first there are copies of it."""

    def __init__(self, channels: int, out_channels: int, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.Conv3d(channels, out_channels, kernel_size=3, padding=(0, 1, 1))

    def forward(self, x_BCFHW: Tensor, past: Past) -> Tensor:
        before = past.get(self)
        if before is None:
            before = x_BCFHW[:, :, :1].expand(-1, -1, 2, -1, -1)
        x_BCFHW = torch.cat([before, x_BCFHW], dim=2)
        past[self] = x_BCFHW[:, :, -2:].clone()  # a view would keep the whole piece alive
        return self.conv(x_BCFHW)


class PointwiseConv3d(nn.Module):
    """1x1x1 convolution, under the name that the published files have for it."""

    def __init__(self, channels: int, out_channels: int, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.Conv3d(channels, out_channels, kernel_size=1)

    def forward(self, x_BCFHW: Tensor) -> Tensor:
        return self.conv(x_BCFHW)


def group_norm(channels: int, ops: Ops) -> nn.Module:
    norm: nn.Module = ops.GroupNorm(norm_groups(channels), channels, eps=_EPS)
    return norm


class LatentNorm(nn.Module):
    """Group norm whose scale and shift come from the latents ("spatially conditioned", arXiv:2209.09002)."""

    def __init__(self, channels: int, latent_channels: int, ops: Ops) -> None:
        super().__init__()
        self.norm_layer = group_norm(channels, ops)
        self.conv_y = PointwiseConv3d(latent_channels, channels, ops)
        self.conv_b = PointwiseConv3d(latent_channels, channels, ops)

    def forward(self, x_BCFHW: Tensor, z_BZTHW: Tensor) -> Tensor:
        # 1x1x1 convolutions commute with nearest upsampling, so they run at latent size and are broadcast
        frames = latent_frame_of(x_BCFHW.shape[2], z_BZTHW.shape[2]).to(z_BZTHW.device)
        scale, shift = (conv(z_BZTHW)[:, :, frames, :, None, :, None] for conv in (self.conv_y, self.conv_b))
        height, width = z_BZTHW.shape[-2:]
        cells = self.norm_layer(x_BCFHW).unflatten(-1, (width, -1)).unflatten(-3, (height, -1))
        return torch.addcmul(shift, cells, scale).flatten(-2).flatten(-3, -2)


def latent_frame_of(frames: int, latent_frames: int) -> Tensor:
    """Latent frame each frame of a piece belongs to; of an odd number the first frame has one to itself."""
    alone = frames % 2 if frames > 1 else 0
    repeats = (frames - alone) // (latent_frames - alone)
    return (torch.arange(frames) + (repeats - 1) * alone) // repeats


class ResBlock(nn.Module):
    """Two causal convolutions; with `latent_channels`, the norms are conditioned on the latents (decoder)."""

    def __init__(self, channels: int, out_channels: int, latent_channels: int | None, ops: Ops) -> None:
        super().__init__()

        def norm(width: int) -> nn.Module:
            return LatentNorm(width, latent_channels, ops) if latent_channels else group_norm(width, ops)

        self.norm1 = norm(channels)
        self.conv1 = CausalConv3d(channels, out_channels, ops)
        self.norm2 = norm(out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels, ops)
        self.conv_shortcut = ops.Conv3d(channels, out_channels, kernel_size=1) if channels != out_channels else None

    def forward(self, x_BCFHW: Tensor, past: Past, *latents: Tensor) -> Tensor:
        h_BCFHW = self.conv1(F.silu(self.norm1(x_BCFHW, *latents)), past)
        h_BCFHW = self.conv2(F.silu(self.norm2(h_BCFHW, *latents)), past)
        return h_BCFHW + (x_BCFHW if self.conv_shortcut is None else self.conv_shortcut(x_BCFHW))


class Downsample(nn.Module):
    """Halve height and width, and the frames where asked; the first of an odd number of frames stays alone."""

    def __init__(self, channels: int, halves_time: bool, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, kernel_size=3, stride=2)
        self.halves_time = halves_time

    def forward(self, x_BCFHW: Tensor) -> Tensor:
        if self.halves_time:
            alone = x_BCFHW.shape[2] % 2
            pairs = x_BCFHW[:, :, alone:].unflatten(2, (-1, 2)).mean(3)
            x_BCFHW = torch.cat([x_BCFHW[:, :, :alone], pairs], dim=2)
        return _per_frame(self.conv, F.pad(x_BCFHW, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width, and the frames where asked; the first of an odd number of frames stays single."""

    def __init__(self, channels: int, doubles_time: bool, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.doubles_time = doubles_time

    def forward(self, x_BCFHW: Tensor) -> Tensor:
        x_BCFHW = _per_frame(self.conv, F.interpolate(x_BCFHW, scale_factor=(1, 2, 2)))
        if not self.doubles_time:
            return x_BCFHW
        # repeating after the convolution gives the same as before it, at half of the work
        alone = x_BCFHW.shape[2] % 2
        return torch.cat([x_BCFHW[:, :, :alone], x_BCFHW[:, :, alone:].repeat_interleave(2, dim=2)], dim=2)


def _per_frame(conv: nn.Module, x_BCFHW: Tensor) -> Tensor:
    out_NCHW = conv(rearrange(x_BCFHW, "B C F H W -> (B F) C H W"))
    return rearrange(out_NCHW, "(B F) C H W -> B C F H W", B=len(x_BCFHW))
