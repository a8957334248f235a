"""CogVideoX's causal autoencoder of video (arXiv:2408.06072).

Parameter names are those of the published files (diffusers' naming).
Shapes: B clips, C channels, F frames, T latent frames, H W height and width (pixels, or latent cells of 8x8 pixels).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise

import torch
from torch import Tensor, nn

from ...nn.chunks import CHUNK_BYTES
from ...nn.layers import Ops
from ...nn.nan_check import checked_part
from ...nn.out_of_memory import restore_chunk_bytes, retry_with_smaller_chunks
from ...nn.tiling import Blend, Window, scaled, spatial_axes, tiles
from .causal_conv import CausalConv3d, Downsample, Past, ResBlock, Upsample, consume, laid_out, parts_within
from .config import VAEConfig
from .geometry import GEOMETRY
from .norms import LatentNorm, activation, group_norm

SCALING_FACTOR = 0.7  # CogVideoX-5B's latents times this have about unit variance; the 2B's is 1.15258426
SPATIAL_FACTOR, TEMPORAL_FACTOR = GEOMETRY.spatial_factor, GEOMETRY.temporal_factor

# The norms' statistics are those of one piece, so the pieces are part of the definition: an odd first frame goes with
# the first of them. As DiffSynth-Studio 1.1.9 (cog_vae.py) and diffusers.
_LATENT_CHUNK = 2
_FRAME_CHUNK = TEMPORAL_FACTOR * _LATENT_CHUNK
_TIME_LEVELS = 2  # of the finest levels, which also halve the frames

Progress = Callable[[int, int], None]  # done, total


class CogVideoXVAE(nn.Module):
    """Pixels in [-1, 1] to raw (unscaled) latents and back.

    Args:
        config: sizes; `VAEConfig.from_shapes` reads them from a checkpoint.
        ops: where the layers come from.

    Attributes:
        chunk_bytes: for the temporary tensors of what is computed at once; the results are the same within rounding.
    """

    scaling_factor = SCALING_FACTOR  # the denoiser works on latents times this

    def __init__(self, config: VAEConfig, ops: Ops = nn) -> None:
        super().__init__()
        self.config = config
        self.chunk_bytes = CHUNK_BYTES
        self.encoder = Encoder(config, ops)
        self.decoder = Decoder(config, ops)

    def encode(self, video_BCFHW: Tensor, progress: Progress | None = None) -> Tensor:
        """Most likely latents of a clip with any number of frames.

        Args:
            video_BCFHW: [B, 3, F, H, W] in [-1, 1]; H and W are multiples of 8.
            progress: called with the number of pieces done and in all; may raise to stop.

        Returns:
            [B, 16, ceil(F / 4), H / 8, W / 8]. One latent frame decodes to 4 frames, and the first to 1 if F is odd:
            only clips of 8k + 1 frames come back with as many.
        """
        height, width = video_BCFHW.shape[-2:]
        GEOMETRY.check_cells(height, width)
        with restore_chunk_bytes(self):
            return retry_with_smaller_chunks(self, lambda: self._encode(video_BCFHW, progress))

    def _encode(self, video_BCFHW: Tensor, progress: Progress | None) -> Tensor:
        latents = []
        spans = list(frame_chunks(video_BCFHW.shape[2], _FRAME_CHUNK))
        names = [f"encoding frames {start} to {end - 1}" for start, end in spans]
        for moments in self._checked(names, self.encoder, video_BCFHW, _FRAME_CHUNK):
            latents.append(moments[:, : self.config.latent_channels])
            if progress:
                progress(len(latents), len(spans))
        return torch.cat(latents, dim=2)

    def decode(self, latents_BCTHW: Tensor, progress: Progress | None = None, tile: int | None = None) -> Tensor:
        """Frames of a clip, two latent frames at a time.

        Where memory ends it starts again in smaller pieces, which changes nothing but rounding: to go on from where it
        was, it would have to keep twice what the convolutions remember.

        Args:
            latents_BCTHW: [B, 16, T, h, w], raw.
            progress: called with the number of pieces done and in all; may raise to stop.
            tile: side of the tiles in latent cells. The picture is then decoded in overlapping tiles and blended, in
                less memory and not quite the same; None decodes it whole.

        Returns:
            [B, 3, F, 8 h, 8 w] float32 on the CPU, about [-1, 1]; F is 4 T - 3 for odd T, else 4 T.
        """
        with restore_chunk_bytes(self):
            return retry_with_smaller_chunks(self, lambda: self._decode(latents_BCTHW, progress, tile))

    def _decode(self, latents_BCTHW: Tensor, progress: Progress | None, tile: int | None) -> Tensor:
        frames, height, width = latents_BCTHW.shape[2:]
        windows = decode_windows(height, width, tile)
        size = (SPATIAL_FACTOR * height, SPATIAL_FACTOR * width)
        blend = Blend((len(latents_BCTHW), 3, GEOMETRY.frames_of(frames), *size), dims=(3, 4), frames=2)
        count = len(windows) * len(list(decode_chunks(frames)))
        done = 0
        for window in windows:
            (h0, h1), (w0, w1) = window
            start = 0
            for chunk_BCFHW in self._decode_chunks(latents_BCTHW[..., h0:h1, w0:w1]):
                blend.add(scaled(window, (SPATIAL_FACTOR, SPATIAL_FACTOR)), chunk_BCFHW, start)
                start, done = start + chunk_BCFHW.shape[2], done + 1
                if progress:
                    progress(done, count)
        return blend.mean()

    def _decode_chunks(self, latents_BCTHW: Tensor) -> Iterator[Tensor]:
        frames = latents_BCTHW.shape[2]
        ends = [TEMPORAL_FACTOR * end - (TEMPORAL_FACTOR - 1) * (frames % 2) for _, end in decode_chunks(frames)]
        names = [f"decoding frames {start} to {end - 1}" for start, end in pairwise([0, *ends])]
        return self._checked(names, self.decoder, latents_BCTHW, _LATENT_CHUNK)

    def _checked(self, names: Sequence[str], coder: nn.Module, x_BCTHW: Tensor, size: int) -> Iterator[Tensor]:
        """What a half of the network makes of each piece; an error about its numbers begins with the piece's name."""
        for index, part in enumerate(self._chunks(coder, x_BCTHW, size)):

            def again(index: int = index) -> Tensor:  # from the start, for a piece needs what those before left
                return next(islice(self._chunks(coder, x_BCTHW, size), index, None))

            yield checked_part(names[index], part, self, again, x_BCTHW)

    def _chunks(self, coder: nn.Module, x_BCTHW: Tensor, size: int) -> Iterator[Tensor]:
        past: Past = {}
        for start, end in frame_chunks(x_BCTHW.shape[2], size):
            yield coder(self.to_network(x_BCTHW[:, :, start:end]), past, self.chunk_bytes)

    def to_network(self, x: Tensor) -> Tensor:
        """To the device and type the network computes in; hosts that offload weights know it better than a weight."""
        weight = self.decoder.conv_in.conv.weight
        return x.to(weight.device, weight.dtype)


def decode_windows(height: int, width: int, tile: int | None = None) -> list[Window]:
    """Tiles that are decoded one after the other, in latent cells; `tile` as for `CogVideoXVAE.decode`."""
    return list(tiles(spatial_axes(height, width, tile)))


def decode_chunks(latent_frames: int) -> Iterator[tuple[int, int]]:
    """Start and end of the latent frames that are decoded at once."""
    return frame_chunks(latent_frames, _LATENT_CHUNK)


def frame_chunks(length: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of every chunk; the first also takes what is left over."""
    start, end = 0, min(length, size + length % size)
    while start < length:
        yield start, end
        start, end = end, end + size


class Encoder(nn.Module):
    """Frames to the mean and log variance of their latents."""

    def __init__(self, config: VAEConfig, ops: Ops) -> None:
        super().__init__()
        channels = config.widths[0]
        self.conv_in = CausalConv3d(3, channels, ops)
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(config.widths):
            resample = None if _is_last(config, level) else Downsample(width, level < _TIME_LEVELS, ops)
            self.down_blocks.append(Level(channels, width, config.blocks_per_level, None, ops, downsamplers=resample))
            channels = width
        self.mid_block = Level(channels, channels, 2, None, ops)
        self.norm_out = group_norm(channels, ops)
        self.conv_out = CausalConv3d(channels, 2 * config.latent_channels, ops)

    def forward(self, x_BCFHW: Tensor, past: Past, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
        """[B, 3, F, H, W] to [B, 32, T, H / 8, W / 8]; the budget is for the temporary tensors of one part."""
        chunk_bytes = _budget(x_BCFHW, chunk_bytes)
        parts = self._first(laid_out(x_BCFHW), past, chunk_bytes)
        for level in (*self.down_blocks, self.mid_block):
            parts = level(parts, past, chunk_bytes)
        convolve, activate = self.conv_out.bind(parts[0], past), activation(self.norm_out, parts)
        return torch.cat([convolve(activate(part, frames)) for frames, part in consume(parts)], dim=2)

    def _first(self, x_BCFHW: Tensor, past: Past, chunk_bytes: int) -> list[Tensor]:
        """The first convolution, in parts that the blocks behind it can work on."""
        widened = self.conv_in.conv.out_channels // x_BCFHW.shape[1]
        return list(map(self.conv_in.bind(x_BCFHW, past), parts_within(chunk_bytes // widened, x_BCFHW)))


class Decoder(nn.Module):
    """Latents to frames; every norm is told the latents again."""

    def __init__(self, config: VAEConfig, ops: Ops) -> None:
        super().__init__()
        channels, latent = config.widths[-1], config.latent_channels
        self.conv_in = CausalConv3d(latent, channels, ops)
        self.mid_block = Level(channels, channels, 2, latent, ops)
        self.up_blocks = nn.ModuleList()
        for level, width in enumerate(reversed(config.widths)):
            resample = None if _is_last(config, level) else Upsample(width, level < _TIME_LEVELS, ops)
            depth = config.blocks_per_level + 1
            self.up_blocks.append(Level(channels, width, depth, latent, ops, upsamplers=resample))
            channels = width
        self.norm_out = LatentNorm(channels, latent, ops)
        self.conv_out = CausalConv3d(channels, 3, ops)

    def forward(self, z_BCTHW: Tensor, past: Past, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
        """[B, 16, T, h, w] to [B, 3, F, 8 h, 8 w]; the budget is for the temporary tensors of one part."""
        chunk_bytes = _budget(z_BCTHW, chunk_bytes)
        parts = [self.conv_in(laid_out(z_BCTHW), past)]
        for level in (self.mid_block, *self.up_blocks):
            parts = level(parts, past, chunk_bytes, z_BCTHW)
        convolve, activate = self.conv_out.bind(parts[0], past), activation(self.norm_out, parts, z_BCTHW)
        return torch.cat([convolve(activate(part, frames)) for frames, part in consume(parts)], dim=2)


def _budget(x_BCFHW: Tensor, chunk_bytes: int) -> int:
    """Nothing is cut where gradients are wanted, and not several clips, for each has statistics of its own."""
    return sys.maxsize if torch.is_grad_enabled() or len(x_BCFHW) > 1 else chunk_bytes


def _is_last(config: VAEConfig, level: int) -> bool:
    return level == len(config.widths) - 1


class Level(nn.Module):
    """Blocks of one level, then the step to the next, whose name says in which direction."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        depth: int,
        latent_channels: int | None,
        ops: Ops,
        **resample: nn.Module | None,
    ) -> None:
        super().__init__()
        inputs = [channels] + [out_channels] * (depth - 1)
        self.resnets = nn.ModuleList(ResBlock(width, out_channels, latent_channels, ops) for width in inputs)
        self.resamplers = [name for name, layer in resample.items() if layer]
        for name, layer in resample.items():
            if layer:
                self.add_module(name, nn.ModuleList([layer]))

    def forward(self, parts: list[Tensor], past: Past, chunk_bytes: int, *latents: Tensor) -> list[Tensor]:
        for block in self.resnets:
            parts = block(parts, past, *latents)
        for name in self.resamplers:
            parts = getattr(self, name)[0](parts, chunk_bytes)
        return parts
