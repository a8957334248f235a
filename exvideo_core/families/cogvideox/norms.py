"""Group norms of CogVideoX's autoencoder with the SiLU that follows, on feature maps in chunks of frames.

Shapes: B clips, C channels, F frames, H W height and width; Z channels, T frames, h w height and width of the latents.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...nn.chunks import CHUNK_BYTES
from ...nn.conv3d import conv3d
from ...nn.effective_weights import effective_weights
from ...nn.fused import scaled_silu
from ...nn.group_norm import affine, row_chunks
from ...nn.layers import Ops, group_norm

# A chunk of a feature map and the span of its frames, to the chunk activated
Activation = Callable[[Tensor, slice], Tensor]


class LatentNorm(nn.Module):
    """Group norm whose scale and shift come from the latents ("spatially conditioned", arXiv:2209.09002)."""

    def __init__(self, channels: int, latent_channels: int, ops: Ops) -> None:
        super().__init__()
        self.norm_layer = group_norm(channels, ops)
        self.conv_y, self.conv_b = (  # with a child `conv`, as in the published files
            nn.ModuleDict({"conv": ops.Conv3d(latent_channels, channels, kernel_size=1)}) for _ in range(2)
        )

    def forward(self, x_BCFHW: Tensor, z_BZTHW: Tensor) -> Tensor:
        scale, shift = self.scale_and_shift(z_BZTHW, x_BCFHW.shape[2])
        cells = _in_cells(self.norm_layer(x_BCFHW), z_BZTHW)
        # else the result is laid out like the shift, and every later convolution is channels first
        out = None if torch.is_grad_enabled() else torch.empty_like(cells)
        return _from_cells(torch.addcmul(shift, cells, scale, out=out))

    def scale_and_shift(self, z_BZTHW: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Scale and shift of every frame and latent cell, [B, C, F, h, 1, w, 1].

        1x1x1 convolutions commute with nearest upsampling, so they run at latent size and are broadcast.
        """
        index_F = latent_frame_of(frames, z_BZTHW.shape[2], z_BZTHW.device)
        convs = self.conv_y["conv"], self.conv_b["conv"]
        scale, shift = (conv3d(conv, z_BZTHW)[:, :, index_F, :, None, :, None] for conv in convs)
        return scale, shift


def activation(norm: nn.Module, chunks: list[Tensor], *latents: Tensor) -> Activation:
    """Bind norm and SiLU to a feature map; the statistics are those of all its chunks together."""
    # PyTorch's own group norm is channels-first on CUDA; of several clips each has its statistics
    if len(chunks) == 1 and (len(chunks[0]) > 1 or not chunks[0].is_cuda):
        return lambda x, _: F.silu(norm(x, *latents), inplace=not torch.is_grad_enabled())
    base = norm.norm_layer if isinstance(norm, LatentNorm) else norm
    weights = effective_weights(base, chunks[0])
    if weights is None:
        whole = F.silu(norm(torch.cat(chunks, dim=2), *latents))
        return lambda _, frames: whole[:, :, frames]
    scale = affine(base, weights, row_chunks(chunks, CHUNK_BYTES), axes=3)
    if not isinstance(norm, LatentNorm):
        return lambda x, _: scaled_silu(x, *scale)
    # combine both scales and shifts at latent size
    factor, summand = (values[..., None, None] for values in scale)
    (z_BZTHW,) = latents
    gain, shift = (values.to(factor) for values in norm.scale_and_shift(z_BZTHW, sum(x.shape[2] for x in chunks)))
    factor, summand = factor * gain, torch.addcmul(shift, summand, gain)

    def activate(x: Tensor, frames: slice) -> Tensor:
        return _from_cells(scaled_silu(_in_cells(x, z_BZTHW), factor[:, :, frames], summand[:, :, frames]))

    return activate


def _in_cells(x_BCFHW: Tensor, z_BZTHW: Tensor) -> Tensor:
    """View as [B, C, F, h, H / h, w, W / w]."""
    height, width = z_BZTHW.shape[-2:]
    return x_BCFHW.unflatten(-1, (width, -1)).unflatten(-3, (height, -1))


def _from_cells(x: Tensor) -> Tensor:
    return x.flatten(-2).flatten(-3, -2)


def latent_frame_of(frames: int, latent_frames: int, device: torch.device | None = None) -> Tensor:
    """Index of the latent frame of each frame of a temporal chunk; of an odd number, the first has its own."""
    single = frames % 2 if frames > 1 else 0
    repeats = (frames - single) // (latent_frames - single)
    return (torch.arange(frames, device=device) + (repeats - 1) * single) // repeats
