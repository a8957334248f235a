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
from ...nn.kernels import operators, with_kernel
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
        index_F = latent_frame_of(x_BCFHW.shape[2], z_BZTHW.shape[2], z_BZTHW.device)
        scale, shift = (_spread(values, index_F) for values in self.scale_and_shift(z_BZTHW))
        cells = _in_cells(self.norm_layer(x_BCFHW), z_BZTHW)
        # else the result is laid out like the shift, and every later convolution is channels first
        out = None if torch.is_grad_enabled() else torch.empty_like(cells)
        return _from_cells(torch.addcmul(shift, cells, scale, out=out))

    def scale_and_shift(self, z_BZTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift of every latent cell, [B, C, T, h, w].

        1x1x1 convolutions commute with nearest upsampling, so they run at latent size.
        """
        scale, shift = (conv3d(conv["conv"], z_BZTHW) for conv in (self.conv_y, self.conv_b))
        return scale, shift


@with_kernel(operators.latent_scaled_silu)
def latent_scaled_silu(
    x_BCFHW: Tensor,
    factor_C: Tensor,
    summand_C: Tensor,
    gain_BCThw: Tensor,
    shift_BCThw: Tensor,
    repeats: int,
    lead: int,
) -> Tensor:
    """SiLU((factor * x + summand) * gain + shift); frame f is in latent frame (f + lead) // repeats.

    Factor and summand are [C, 1, 1, 1], float32.
    """
    index_F = (torch.arange(x_BCFHW.shape[2], device=x_BCFHW.device) + lead) // repeats
    gain, shift = (_spread(values, index_F).to(factor_C) for values in (gain_BCThw, shift_BCThw))
    factor, summand = (values[..., None, None] for values in (factor_C, summand_C))
    # combine both scales and shifts at latent size
    factor, summand = factor * gain, torch.addcmul(shift, summand, gain)
    return _from_cells(scaled_silu(_in_cells(x_BCFHW, gain_BCThw), factor, summand))


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
    (z_BZTHW,) = latents
    gain_and_shift = norm.scale_and_shift(z_BZTHW)
    repeats, lead = _repeats_and_lead(sum(x.shape[2] for x in chunks), z_BZTHW.shape[2])
    return lambda x, frames: latent_scaled_silu(x, *scale, *gain_and_shift, repeats, lead + frames.start)


def _spread(values_BCThw: Tensor, index_F: Tensor) -> Tensor:
    """Values of latent cells for frames in these latent frames: [B, C, F, h, 1, w, 1]."""
    return values_BCThw[:, :, index_F, :, None, :, None]


def _in_cells(x_BCFHW: Tensor, z_BZTHW: Tensor) -> Tensor:
    """View as [B, C, F, h, H / h, w, W / w]."""
    height, width = z_BZTHW.shape[-2:]
    return x_BCFHW.unflatten(-1, (width, -1)).unflatten(-3, (height, -1))


def _from_cells(x: Tensor) -> Tensor:
    return x.flatten(-2).flatten(-3, -2)


def _repeats_and_lead(frames: int, latent_frames: int) -> tuple[int, int]:
    """Frames of a latent frame in a temporal chunk, and what is missing of the first if it has a frame of its own."""
    single = frames % 2 if frames > 1 else 0
    repeats = (frames - single) // (latent_frames - single)
    return repeats, (repeats - 1) * single


def latent_frame_of(frames: int, latent_frames: int, device: torch.device | None = None) -> Tensor:
    """Index of the latent frame of each frame of a temporal chunk; of an odd number, the first has its own."""
    repeats, lead = _repeats_and_lead(frames, latent_frames)
    return (torch.arange(frames, device=device) + lead) // repeats
