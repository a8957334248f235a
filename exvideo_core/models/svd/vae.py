"""Stable Video Diffusion's autoencoder: an image encoder and a temporal decoder (arXiv:2311.15127).

Names are those of the sgm code base. Shapes: T frames, C channels, H and W height and width (pixels or, in the
middle, latent cells of 8x8 pixels).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ...tiling import Axis, blend_weight, tiles
from ..layers import Ops, norm_groups
from .blocks import TemporalResBlock, Upsample
from .config import VAEConfig

SCALE = 0.18215  # latents times this have about unit variance; the networks of the UNet work on those
CELL = 8  # pixels along one side of a latent cell

# The decoder sees a few frames at a time and its norms depend on which: these are the reference's
# (DiffSynth-Studio 1.1.9, svd_vae_decoder.py), so its pictures come out whatever memory there is.
_WINDOW = Axis(length=0, size=8, stride=4)
_TILE = Axis(length=0, size=128, stride=32)

Progress = Callable[[int, int], None]  # done, total


class VAE(nn.Module):
    """Pixels in [-1, 1] to raw (unscaled) latents and back.

    Args:
        config: sizes; `VAEConfig.from_shapes` reads them from a checkpoint.
        quantised: whether the encoder ends in `quant_conv` (the image autoencoder of `conditioner.embedders.3`).
        ops: where the layers come from.
    """

    def __init__(self, config: VAEConfig, quantised: bool = True, ops: Ops = nn) -> None:
        super().__init__()
        self.config = config
        moments = 2 * config.latent_channels
        self.encoder = Encoder(config, ops)
        self.quant_conv = ops.Conv2d(moments, moments, kernel_size=1) if quantised else None
        self.decoder = TemporalDecoder(config, ops)

    def encode(self, video_TCHW: Tensor, progress: Progress | None = None) -> Tensor:
        """Most likely latents of each frame, one frame at a time: [T, 3, H, W] to [T, 4, H / 8, W / 8]."""
        height, width = video_TCHW.shape[-2:]
        if height % CELL or width % CELL:
            raise ValueError(f"height and width must be multiples of {CELL}, not {height} and {width}")
        latents = []
        for frame_CHW in video_TCHW:
            moments = self.encoder(self.to_network(frame_CHW[None]))
            if self.quant_conv is not None:
                moments = self.quant_conv(moments)
            latents.append(moments[:, : self.config.latent_channels])
            if progress:
                progress(len(latents), len(video_TCHW))
        return torch.cat(latents)

    def decode(self, latents_TCHW: Tensor, progress: Progress | None = None) -> Tensor:
        """Blend of windows of 8 frames, 4 apart (and of tiles above 1024 pixels).

        The windows are part of the definition: the pictures do not depend on how much memory is free.

        Args:
            latents_TCHW: [T, 4, h, w], raw.
            progress: called with the number of windows done and in all; may raise to stop.

        Returns:
            [T, 3, 8 h, 8 w] float32 on the CPU, about [-1, 1].
        """
        frames, _, height, width = latents_TCHW.shape
        axes = [Axis(n, a.size, a.stride) for n, a in ((frames, _WINDOW), (height, _TILE), (width, _TILE))]
        lengths = (frames, CELL * height, CELL * width)
        total_TCHW = torch.zeros(frames, 3, *lengths[1:])
        weights_THW = torch.zeros(lengths)
        windows = list(tiles(axes))
        for done, ((t0, t1), (h0, h1), (w0, w1)) in enumerate(windows, start=1):
            part_TCHW = self.decoder(self.to_network(latents_TCHW[t0:t1, :, h0:h1, w0:w1])).float().cpu()
            spans = ((t0, t1), (CELL * h0, CELL * h1), (CELL * w0, CELL * w1))
            weight_THW = blend_weight(spans, lengths)
            place = tuple(slice(*span) for span in spans)
            total_TCHW[place[0], :, place[1], place[2]] += part_TCHW.mul_(weight_THW[:, None])
            weights_THW[place] += weight_THW
            if progress:
                progress(done, len(windows))
        return total_TCHW.div_(weights_THW[:, None])

    def to_network(self, x: Tensor) -> Tensor:
        """To the device and type the network computes in; hosts that offload weights know it better than a weight."""
        weight = self.decoder.conv_in.weight
        return x.to(weight.device, weight.dtype)


class Encoder(nn.Module):
    """Picture to the mean and log variance of its latents."""

    def __init__(self, config: VAEConfig, ops: Ops) -> None:
        super().__init__()
        channels = config.widths[0]
        self.conv_in = ops.Conv2d(3, channels, kernel_size=3, padding=1)
        self.down = nn.ModuleList()
        for level, width in enumerate(config.widths):
            is_last = level == len(config.widths) - 1
            resample = None if is_last else Downsample(width, ops)
            self.down.append(Stage(ResBlock, config.blocks_per_level, channels, width, ops, downsample=resample))
            channels = width
        self.mid = Middle(ResBlock, channels, ops)
        self.norm_out = _norm(channels, ops)
        self.conv_out = ops.Conv2d(channels, 2 * config.latent_channels, kernel_size=3, padding=1)

    def forward(self, x_TCHW: Tensor) -> Tensor:
        x_TCHW = self.conv_in(x_TCHW)
        for stage in self.down:
            x_TCHW = stage(x_TCHW)
        return self.conv_out(F.silu(self.norm_out(self.mid(x_TCHW))))


class TemporalDecoder(nn.Module):
    """Latents of neighbouring frames to pixels."""

    def __init__(self, config: VAEConfig, ops: Ops) -> None:
        super().__init__()
        channels = config.widths[-1]
        self.conv_in = ops.Conv2d(config.latent_channels, channels, kernel_size=3, padding=1)
        self.mid = Middle(VideoResBlock, channels, ops)
        stages = []
        for level, width in reversed(list(enumerate(config.widths))):
            resample = Upsample(width, ops) if level else None
            stages.append(Stage(VideoResBlock, config.blocks_per_level + 1, channels, width, ops, upsample=resample))
            channels = width
        self.up = nn.ModuleList(reversed(stages))  # named from the finest level, run from the coarsest
        self.norm_out = _norm(channels, ops)
        self.conv_out = ops.Conv2d(channels, 3, kernel_size=3, padding=1)
        # named as a child of the convolution before it in the published file
        self.conv_out.time_mix_conv = ops.Conv3d(3, 3, kernel_size=(3, 1, 1), padding=(1, 0, 0))

    def forward(self, z_TCHW: Tensor) -> Tensor:
        x_TCHW = self.mid(self.conv_in(z_TCHW))
        for stage in reversed(self.up):
            x_TCHW = stage(x_TCHW)
        x_TCHW = self.conv_out(F.silu(self.norm_out(x_TCHW)))
        mixed = self.conv_out.time_mix_conv(rearrange(x_TCHW, "T C H W -> 1 C T H W"))
        return rearrange(mixed, "1 C T H W -> T C H W")


class Stage(nn.Module):
    """Blocks of one level, then the step to the next, whose name says in which direction."""

    def __init__(
        self,
        block: type[ResBlock],
        depth: int,
        channels: int,
        out_channels: int,
        ops: Ops,
        **resample: nn.Module | None,
    ) -> None:
        super().__init__()
        inputs = [channels] + [out_channels] * (depth - 1)
        self.block = nn.ModuleList(block(channels, out_channels, ops) for channels in inputs)
        for name, layer in resample.items():
            self.add_module(name, layer)

    def forward(self, x_TCHW: Tensor) -> Tensor:
        for block in self.block:
            x_TCHW = block(x_TCHW)
        for layer in list(self.children())[1:]:
            x_TCHW = layer(x_TCHW)
        return x_TCHW


class Middle(nn.Module):
    """Attention between two blocks, on the coarsest level."""

    def __init__(self, block: type[ResBlock], channels: int, ops: Ops) -> None:
        super().__init__()
        self.block_1 = block(channels, channels, ops)
        self.attn_1 = SelfAttention(channels, ops)
        self.block_2 = block(channels, channels, ops)

    def forward(self, x_TCHW: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x_TCHW)))


def _norm(channels: int, ops: Ops) -> nn.Module:
    norm: nn.Module = ops.GroupNorm(norm_groups(channels), channels, eps=1e-6)
    return norm


class ResBlock(nn.Module):
    """Two convolutions per frame."""

    def __init__(self, channels: int, out_channels: int, ops: Ops) -> None:
        super().__init__()
        self.norm1 = _norm(channels, ops)
        self.conv1 = ops.Conv2d(channels, out_channels, kernel_size=3, padding=1)
        self.norm2 = _norm(out_channels, ops)
        self.conv2 = ops.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.nin_shortcut = ops.Conv2d(channels, out_channels, kernel_size=1) if channels != out_channels else None

    def forward(self, x_TCHW: Tensor) -> Tensor:
        h_TCHW = self.conv1(F.silu(self.norm1(x_TCHW)))
        h_TCHW = self.conv2(F.silu(self.norm2(h_TCHW)))
        return h_TCHW + (x_TCHW if self.nin_shortcut is None else self.nin_shortcut(x_TCHW))


class VideoResBlock(ResBlock):
    """The same, followed by its twin over time; here the learned share is the temporal one's."""

    def __init__(self, channels: int, out_channels: int, ops: Ops) -> None:
        super().__init__(channels, out_channels, ops)
        self.time_stack = TemporalResBlock(out_channels, None, 1e-5, ops)
        self.mix_factor = nn.Parameter(torch.zeros(1))

    def forward(self, x_TCHW: Tensor) -> Tensor:
        spatial = super().forward(x_TCHW)
        return self.time_stack(spatial, torch.sigmoid(self.mix_factor.float()).to(spatial))


class SelfAttention(nn.Module):
    """Attention of all cells of a frame to each other, with one head."""

    def __init__(self, channels: int, ops: Ops) -> None:
        super().__init__()
        self.norm = _norm(channels, ops)
        self.q = ops.Conv2d(channels, channels, kernel_size=1)
        self.k = ops.Conv2d(channels, channels, kernel_size=1)
        self.v = ops.Conv2d(channels, channels, kernel_size=1)
        self.proj_out = ops.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x_TCHW: Tensor) -> Tensor:
        h_TCHW = self.norm(x_TCHW)
        q, k, v = (rearrange(layer(h_TCHW), "T C H W -> T (H W) C") for layer in (self.q, self.k, self.v))
        out_TLC = F.scaled_dot_product_attention(q, k, v)
        return x_TCHW + self.proj_out(rearrange(out_TLC, "T (H W) C -> T C H W", H=x_TCHW.shape[2]))


class Downsample(nn.Module):
    """Halve height and width; the missing border is on the right and below."""

    def __init__(self, channels: int, ops: Ops) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, kernel_size=3, stride=2)

    def forward(self, x_TCHW: Tensor) -> Tensor:
        return self.conv(F.pad(x_TCHW, (0, 1, 0, 1)))
