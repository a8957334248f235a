"""Group norms of CogVideoX's autoencoder, and the activation behind each, over frames that come in parts.

Shapes: B clips, C channels, F frames, H W height and width; Z channels, T frames, h w height and width of the latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...nn.chunks import CHUNK_BYTES, items_within, spans
from ...nn.conv3d import conv3d
from ...nn.effective_weights import effective_weights
from ...nn.fused import scaled_silu
from ...nn.group_norm import affine
from ...nn.layers import Ops, norm_groups

_EPS = 1e-6

# A part of a map and the place of its frames in it, to the part activated
Activation = Callable[[Tensor, slice], Tensor]


def group_norm(channels: int, ops: Ops) -> nn.Module:
    norm: nn.Module = ops.GroupNorm(norm_groups(channels), channels, eps=_EPS)
    return norm


class PointwiseConv3d(nn.Module):
    """1x1x1 convolution, under the name that the published files have for it."""

    def __init__(self, channels: int, out_channels: int, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.Conv3d(channels, out_channels, kernel_size=1)

    def forward(self, x_BCFHW: Tensor) -> Tensor:
        return conv3d(self.conv, x_BCFHW)


class LatentNorm(nn.Module):
    """Group norm whose scale and shift come from the latents ("spatially conditioned", arXiv:2209.09002)."""

    def __init__(self, channels: int, latent_channels: int, ops: Ops) -> None:
        super().__init__()
        self.norm_layer = group_norm(channels, ops)
        self.conv_y = PointwiseConv3d(latent_channels, channels, ops)
        self.conv_b = PointwiseConv3d(latent_channels, channels, ops)

    def forward(self, x_BCFHW: Tensor, z_BZTHW: Tensor) -> Tensor:
        scale, shift = self.scale_and_shift(z_BZTHW, x_BCFHW.shape[2])
        return _from_cells(torch.addcmul(shift, _in_cells(self.norm_layer(x_BCFHW), z_BZTHW), scale))

    def scale_and_shift(self, z_BZTHW: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """For every frame and latent cell, [B, C, F, h, 1, w, 1].

        1x1x1 convolutions commute with nearest upsampling, so they run at latent size and are broadcast.
        """
        places = latent_frame_of(frames, z_BZTHW.shape[2]).to(z_BZTHW.device)
        scale, shift = (conv(z_BZTHW)[:, :, places, :, None, :, None] for conv in (self.conv_y, self.conv_b))
        return scale, shift


def activation(norm: nn.Module, parts: list[Tensor], *latents: Tensor) -> Activation:
    """Norm and SiLU of a map; its norm's statistics are those of all parts together."""
    if len(parts) == 1:
        return lambda part, _: F.silu(norm(part, *latents), inplace=not torch.is_grad_enabled())
    base = norm.norm_layer if isinstance(norm, LatentNorm) else norm
    weights = effective_weights(base, parts[0])
    if weights is None:
        whole = F.silu(norm(torch.cat(parts, dim=2), *latents))
        return lambda _, frames: whole[:, :, frames]
    scale = [values_C[:, None, None, None] for values_C in affine(base, weights, _strips(parts))]
    if not isinstance(norm, LatentNorm):
        return lambda part, _: scaled_silu(part, *scale)
    # at latent size the two scales and shifts are made one
    factor, summand = (values[..., None, None] for values in scale)
    (z_BZTHW,) = latents
    gain, shift = (values.to(factor) for values in norm.scale_and_shift(z_BZTHW, sum(part.shape[2] for part in parts)))
    factor, summand = factor * gain, torch.addcmul(shift, summand, gain)

    def activate(part: Tensor, frames: slice) -> Tensor:
        return _from_cells(scaled_silu(_in_cells(part, z_BZTHW), factor[:, :, frames], summand[:, :, frames]))

    return activate


def _strips(parts: list[Tensor]) -> Iterator[Tensor]:
    """Rows that may be looked at together, in float32."""
    for part in parts:
        rows = items_within(CHUNK_BYTES, 4 * part[:, :, :, 0].numel())
        yield from (part[:, :, :, span] for span in spans(part.shape[3], rows))


def _in_cells(x_BCFHW: Tensor, z_BZTHW: Tensor) -> Tensor:
    """[B, C, F, h, H / h, w, W / w], in the same memory."""
    height, width = z_BZTHW.shape[-2:]
    return x_BCFHW.unflatten(-1, (width, -1)).unflatten(-3, (height, -1))


def _from_cells(x: Tensor) -> Tensor:
    return x.flatten(-2).flatten(-3, -2)


def latent_frame_of(frames: int, latent_frames: int) -> Tensor:
    """Latent frame each frame of a piece belongs to; of an odd number the first frame has one to itself."""
    alone = frames % 2 if frames > 1 else 0
    repeats = (frames - alone) // (latent_frames - alone)
    return (torch.arange(frames) + (repeats - 1) * alone) // repeats
