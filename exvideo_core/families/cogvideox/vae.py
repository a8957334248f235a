"""CogVideoX's causal autoencoder of video (arXiv:2408.06072).

Parameter names are those of the published files (diffusers' naming).
Shapes: B clips, C channels, F frames, T latent frames, H W height and width (pixels, or latent cells of 8x8 pixels).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, product

import torch
from einops import rearrange
from torch import Tensor, nn

from ...nn.chunks import CHUNK_BYTES
from ...nn.convolution import channels_last_on_gpu
from ...nn.layers import Ops, group_norm
from ...nn.nan_check import checked_part
from ...nn.out_of_memory import restore_chunk_bytes, resumed_with_smaller_chunks, retry_with_smaller_chunks
from ...nn.tiling import Blend, scaled, tile_axes
from ...progress import Progress
from ...runtime.decoded_frames import concatenated
from ...runtime.host_copy import HostCopy
from ...video.frames import pixels_to_frames
from .causal_conv import CausalConv3d, Downsample, Past, ResBlock, Upsample, pop_chunks, split_frames
from .config import VAEConfig
from .geometry import GEOMETRY
from .norms import LatentNorm, activation

SCALING_FACTOR = 0.7  # CogVideoX-5B's latents times this have about unit variance; the 2B's is 1.15258426
SPATIAL_FACTOR, TEMPORAL_FACTOR = GEOMETRY.spatial_factor, GEOMETRY.temporal_factor

# The norms' statistics span one temporal chunk, so the chunks are part of the result. These are those of
# DiffSynth-Studio 1.1.9 (cog_vae.py) and diffusers; an odd first frame belongs to the first chunk.
LATENT_CHUNK = 2
_FRAME_CHUNK = TEMPORAL_FACTOR * LATENT_CHUNK
_TIME_LEVELS = 2  # highest resolutions, at which time is halved or doubled too


class CogVideoXVAE(nn.Module):
    """Pixels in [-1, 1] to raw (unscaled) latents and back; its layers are `torch.nn`'s or a host's, `ops`."""

    scaling_factor = SCALING_FACTOR  # the denoiser works on latents times this

    def __init__(self, config: VAEConfig, ops: Ops = nn) -> None:
        super().__init__()
        self.config = config
        self.chunk_bytes = CHUNK_BYTES  # for the temporary tensors of one chunk; changes results by rounding only
        self.encoder = Encoder(config, ops)
        self.decoder = Decoder(config, ops)

    def encode(self, video_BCFHW: Tensor, progress: Progress | None = None) -> Tensor:
        """Mean of the latent distribution of a clip, [B, 3, F, H, W] in [-1, 1]; H and W are multiples of 8.

        Returns:
            [B, 16, ceil(F / 4), H / 8, W / 8]. A latent frame decodes to 4 frames, the first to 1 if F is odd, so only
            8k + 1 frames decode to as many.
        """
        GEOMETRY.check_cells(*video_BCFHW.shape[-2:])
        with restore_chunk_bytes(self):
            return retry_with_smaller_chunks(self, lambda: self._encode(video_BCFHW, progress))

    def _encode(self, video_BCFHW: Tensor, progress: Progress | None) -> Tensor:
        latents = []
        count = len(list(temporal_chunks(video_BCFHW.shape[2], _FRAME_CHUNK)))
        for checked_moments in self._chunks("encoding", self.encoder, video_BCFHW, _FRAME_CHUNK):
            latents.append(checked_moments()[:, : self.config.latent_channels])
            if progress:
                progress(len(latents), count)
        return torch.cat(latents, dim=2)

    def decode(self, latents_BCTHW: Tensor, progress: Progress | None = None, tile: int | None = None) -> Tensor:
        """Decode a clip, two latent frames at a time.

        Out of memory, the clip is decoded again from the start in smaller chunks, which changes the result by rounding
        only; to continue instead, a second copy of the convolutions' past frames would be needed.

        Args:
            latents_BCTHW: [B, 16, T, h, w], raw.
            progress: called with the temporal chunks done and in total.
            tile: side of overlapping tiles in latent cells: less memory, but seams may show. None decodes whole frames.

        Returns:
            [B, 3, F, 8 h, 8 w] float32 on the CPU, about [-1, 1]; F is 4 T - 3 for odd T, else 4 T.
        """
        spans = self.decode_spans(latents_BCTHW, progress, tile)
        return concatenated(spans, GEOMETRY.frames_of(latents_BCTHW.shape[2]), axis=2)

    def decode_spans(
        self,
        latents_BCTHW: Tensor,
        progress: Progress | None = None,
        tile: int | None = None,
        convert: Callable[[Tensor], Tensor] = torch.as_tensor,
    ) -> Iterator[Tensor]:
        """`decode`, span by span of frames as they are decoded; tiles give all frames at once.

        While a span is read, the GPU decodes the next. `convert` is applied on the GPU to each span
        [B, 3, f, 8 h, 8 w].
        """
        with restore_chunk_bytes(self):
            yield from resumed_with_smaller_chunks(self, lambda: self._decode(latents_BCTHW, progress, tile, convert))

    def _decode(
        self,
        latents_BCTHW: Tensor,
        progress: Progress | None,
        tile: int | None,
        convert: Callable[[Tensor], Tensor],
    ) -> Iterator[Tensor]:
        frames, height, width = latents_BCTHW.shape[2:]
        windows = list(product(*tile_axes(height, width, tile)))
        count = len(windows) * len(list(temporal_chunks(frames, LATENT_CHUNK)))
        size = (SPATIAL_FACTOR * height, SPATIAL_FACTOR * width)
        shape = (len(latents_BCTHW), 3, GEOMETRY.frames_of(frames), *size)
        places = [scaled(window, (SPATIAL_FACTOR, SPATIAL_FACTOR)) for window in windows]
        blend = Blend(shape, dims=(3, 4), frames=2, windows=places) if len(windows) > 1 else None
        waiting, done = None, 0
        for window, place in zip(windows, places, strict=True):
            (h0, h1), (w0, w1) = window
            start, part_BCTHW = 0, latents_BCTHW[..., h0:h1, w0:w1]
            for checked_chunk in self._chunks("decoding", self.decoder, part_BCTHW, LATENT_CHUNK):
                if waiting is not None:
                    yield waiting.wait()
                chunk_BCFHW, waiting = checked_chunk().float(), None
                if blend is None:
                    waiting = HostCopy(convert(chunk_BCFHW))
                else:
                    blend.add(place, chunk_BCFHW, start)
                start, done = start + chunk_BCFHW.shape[2], done + 1
                if progress:
                    progress(done, count)
        if blend is not None:
            waiting = HostCopy(convert(blend.take(shape[2])))
        assert waiting is not None, "a clip has latent frames"
        yield waiting.wait()

    def _chunks(self, doing: str, coder: nn.Module, x_BCTHW: Tensor, size: int) -> Iterator[Callable[[], Tensor]]:
        """Run the encoder or decoder on each temporal chunk; call what is yielded for the result.

        That call waits for the GPU to check the result. An error about NaN or Inf names the chunk's frames.
        """
        first, spans = 0, temporal_chunks(x_BCTHW.shape[2], size)
        for index, ((start, end), chunk) in enumerate(zip(spans, self._run_chunks(coder, x_BCTHW, size), strict=True)):

            def again(index: int = index) -> Tensor:  # from the start, because a chunk needs the past frames
                return next(islice(self._run_chunks(coder, x_BCTHW, size), index, None))

            last = first + max(end - start, chunk.shape[2]) - 1  # of the frames that are encoded or were decoded
            yield partial(checked_part, f"{doing} frames {first} to {last}", chunk, self, again, x_BCTHW)
            first = last + 1

    def _run_chunks(self, coder: nn.Module, x_BCTHW: Tensor, size: int) -> Iterator[Tensor]:
        past: Past = {}
        for start, end in temporal_chunks(x_BCTHW.shape[2], size):
            yield coder(self.to_network(x_BCTHW[:, :, start:end]), past, self.chunk_bytes)

    def to_network(self, x: Tensor) -> Tensor:
        """Move to the device and dtype the network computes in; a host that offloads weights overrides this."""
        weight = self.decoder.conv_in.conv.weight
        return x.to(weight.device, weight.dtype)


def frames_of_clip(video_BCFHW: Tensor) -> Tensor:
    """Pixels of one clip, [1, 3, F, H, W] in [-1, 1], to frames [F, H, W, 3] in [0, 1]."""
    return pixels_to_frames(rearrange(video_BCFHW, "1 C F H W -> F C H W"))


def temporal_chunks(length: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of every temporal chunk; the first is longer by the remainder."""
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
            resample = None if level == len(config.widths) - 1 else Downsample(width, level < _TIME_LEVELS, ops)
            self.down_blocks.append(Level(channels, width, config.blocks_per_level, None, ops, downsamplers=resample))
            channels = width
        self.mid_block = Level(channels, channels, 2, None, ops)
        self.norm_out = group_norm(channels, ops)
        self.conv_out = CausalConv3d(channels, 2 * config.latent_channels, ops)

    def forward(self, x_BCFHW: Tensor, past: Past, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
        """A temporal chunk [B, 3, F, H, W] to [B, 32, T, H / 8, W / 8], in chunks of `chunk_bytes`."""
        chunk_bytes = _effective_chunk_bytes(x_BCFHW, chunk_bytes)
        chunks = self._conv_in(channels_last_on_gpu(x_BCFHW), past, chunk_bytes)
        for level in (*self.down_blocks, self.mid_block):
            chunks = level(chunks, past, chunk_bytes)
        convolve, activate = self.conv_out.bind(chunks[0], past), activation(self.norm_out, chunks)
        return torch.cat([convolve(activate(x, frames)) for frames, x in pop_chunks(chunks)], dim=2)

    def _conv_in(self, x_BCFHW: Tensor, past: Past, chunk_bytes: int) -> list[Tensor]:
        """The first convolution, in chunks that fit the budget after it has widened them."""
        widening = self.conv_in.conv.out_channels // x_BCFHW.shape[1]
        return list(map(self.conv_in.bind(x_BCFHW, past), split_frames(chunk_bytes // widening, x_BCFHW)))


class Decoder(nn.Module):
    """Latents to frames; every norm is conditioned on the latents."""

    def __init__(self, config: VAEConfig, ops: Ops) -> None:
        super().__init__()
        channels, latent = config.widths[-1], config.latent_channels
        self.conv_in = CausalConv3d(latent, channels, ops)
        self.mid_block = Level(channels, channels, 2, latent, ops)
        self.up_blocks = nn.ModuleList()
        for level, width in enumerate(reversed(config.widths)):
            resample = None if level == len(config.widths) - 1 else Upsample(width, level < _TIME_LEVELS, ops)
            depth = config.blocks_per_level + 1
            self.up_blocks.append(Level(channels, width, depth, latent, ops, upsamplers=resample))
            channels = width
        self.norm_out = LatentNorm(channels, latent, ops)
        self.conv_out = CausalConv3d(channels, 3, ops)

    def forward(self, z_BCTHW: Tensor, past: Past, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
        """A temporal chunk [B, 16, T, h, w] to [B, 3, F, 8 h, 8 w], in chunks of `chunk_bytes`."""
        chunk_bytes = _effective_chunk_bytes(z_BCTHW, chunk_bytes)
        chunks = [self.conv_in(channels_last_on_gpu(z_BCTHW), past)]
        for level in (self.mid_block, *self.up_blocks):
            chunks = level(chunks, past, chunk_bytes, z_BCTHW)
        convolve, activate = self.conv_out.bind(chunks[0], past), activation(self.norm_out, chunks, z_BCTHW)
        return torch.cat([convolve(activate(x, frames)) for frames, x in pop_chunks(chunks)], dim=2)


def _effective_chunk_bytes(x_BCFHW: Tensor, chunk_bytes: int) -> int:
    """No chunks where gradients are needed, nor for several clips, because each has its own norm statistics."""
    return sys.maxsize if torch.is_grad_enabled() or len(x_BCFHW) > 1 else chunk_bytes


class Level(nn.Module):
    """Residual blocks of one resolution, then `downsamplers` or `upsamplers`, whichever is given."""

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

    def forward(self, chunks: list[Tensor], past: Past, chunk_bytes: int, *latents: Tensor) -> list[Tensor]:
        for block in self.resnets:
            chunks = block(chunks, past, *latents)
        for name in self.resamplers:
            chunks = getattr(self, name)[0](chunks, chunk_bytes)
        return chunks
