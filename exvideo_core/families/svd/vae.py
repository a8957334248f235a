"""Stable Video Diffusion's autoencoder: a per-frame encoder and a temporal decoder (arXiv:2311.15127).

Parameter names are those of the sgm code base.
Shapes: T frames, C channels, H and W height and width in pixels, h and w in latent cells of 8x8 pixels.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product, zip_longest

import torch
from torch import Tensor, nn

from ...nn.chunks import CHUNK_BYTES, items_within, spans
from ...nn.convolution import channels_last_on_gpu
from ...nn.group_norm import norm_silu
from ...nn.layers import Ops, group_norm
from ...nn.nan_check import checked_part
from ...nn.out_of_memory import restore_chunk_bytes, retry_with_smaller_chunks
from ...nn.tiling import Blend, Window, scaled, tile_axes, windows
from ...progress import Progress
from ...runtime.decoded_frames import concatenated
from ...runtime.host_copy import HostCopy
from .config import VAEConfig
from .geometry import GEOMETRY
from .vae_blocks import Middle, ResBlock
from .vae_decoder import TemporalDecoder

SCALING_FACTOR = 0.18215  # raw latents times this have about unit variance, as the UNet expects
SPATIAL_FACTOR = GEOMETRY.spatial_factor

# The decoder's group norms span the frames of a window, so the windows are part of the result. These are those of
# DiffSynth-Studio 1.1.9 (svd_vae_decoder.py), whatever memory there is.
FRAMES_AT_ONCE = 8
_FRAME_STRIDE = 4
LARGEST_TILE = 128  # latent cells; larger frames are decoded in tiles
_TILE_STRIDE = 32


class VAE(nn.Module):
    """Pixels in [-1, 1] to raw (unscaled) latents and back; its layers are `torch.nn`'s or a host's, `ops`.

    If `quantised`, the encoder ends in `quant_conv` (the image autoencoder of `conditioner.embedders.3`).
    """

    scaling_factor = SCALING_FACTOR  # the denoiser works on latents times this

    def __init__(self, config: VAEConfig, quantised: bool = True, ops: Ops = nn) -> None:
        super().__init__()
        self.config = config
        self.chunk_bytes = CHUNK_BYTES  # for the temporary tensors of one chunk; changes results by rounding only
        moments = 2 * config.latent_channels
        self.encoder = Encoder(config, ops)
        self.quant_conv = ops.Conv2d(moments, moments, kernel_size=1) if quantised else None
        self.decoder = TemporalDecoder(config, ops)

    def encode(self, video_TCHW: Tensor, progress: Progress | None = None) -> Tensor:
        """Mean of each frame's latent distribution: [T, 3, H, W] to [T, 4, H / 8, W / 8].

        Frames are encoded one by one, on a GPU as many at once as fit a chunk; `progress` counts them.
        """
        GEOMETRY.check_cells(*video_TCHW.shape[-2:])
        latents = []
        with restore_chunk_bytes(self):
            for span in spans(len(video_TCHW), self.frames_encoded_at_once(*video_TCHW.shape[-2:])):
                frames_TCHW = video_TCHW[span]
                encode = partial(retry_with_smaller_chunks, self, partial(self._encode_frames, frames_TCHW))
                what = f"frame {span.start}" if len(frames_TCHW) == 1 else f"frames {span.start} to {span.stop - 1}"
                latents.append(checked_part(f"encoding {what}", encode(), self, encode, frames_TCHW))
                if progress:
                    progress(span.stop, len(video_TCHW))
        return torch.cat(latents)

    def frames_encoded_at_once(self, height: int, width: int) -> int:
        """Frames of this size that the encoder takes at once; on a CPU one, which is as fast."""
        pixels = self.to_network(torch.empty(0))
        if not pixels.is_cuda:
            return 1
        # at the highest resolution: the input of a block, scaled and activated, two results
        return items_within(self.chunk_bytes, 4 * self.config.widths[0] * height * width * pixels.itemsize)

    def _encode_frames(self, frames_TCHW: Tensor) -> Tensor:
        size = self.frames_encoded_at_once(*frames_TCHW.shape[-2:])  # fewer once memory ran out
        moments = torch.cat([self._moments(frames_TCHW[span]) for span in spans(len(frames_TCHW), size)])
        return moments[:, : self.config.latent_channels]

    def _moments(self, frames_TCHW: Tensor) -> Tensor:
        moments = self.encoder(self.to_network(frames_TCHW), self.chunk_bytes)
        return moments if self.quant_conv is None else self.quant_conv(moments)

    def decode(self, latents_TCHW: Tensor, progress: Progress | None = None, tile: int | None = None) -> Tensor:
        """Decode windows of 8 frames with a stride of 4 (and tiles above 1024 pixels), and blend them.

        Raw [T, 4, h, w] to float32 [T, 3, 8 h, 8 w] on the CPU, about [-1, 1].
        The windows do not depend on free memory. Out of memory, a window is decoded again in smaller chunks, which
        changes the result by rounding only. `progress` counts windows. `tile` is the side of smaller tiles in latent
        cells, below 128: less memory, but seams may show; None is exact.
        """
        return concatenated(self.decode_spans(latents_TCHW, progress, tile), len(latents_TCHW))

    def decode_spans(
        self,
        latents_TCHW: Tensor,
        progress: Progress | None = None,
        tile: int | None = None,
        convert: Callable[[Tensor], Tensor] = torch.as_tensor,
    ) -> Iterator[Tensor]:
        """`decode`, span by span of frames as they are complete. While one is read, the GPU decodes the next window.

        `convert` is applied on the GPU to each span [t, 3, 8 h, 8 w].
        """
        frames, _, height, width = latents_TCHW.shape
        windows = decode_windows(frames, height, width, tile)
        places = [scaled(window, (1, SPATIAL_FACTOR, SPATIAL_FACTOR)) for window in windows]
        shape = (frames, 3, SPATIAL_FACTOR * height, SPATIAL_FACTOR * width)
        blend = Blend(shape, dims=(0, 2, 3), frames=0, windows=places, device=self.to_network(latents_TCHW[:0]).device)
        waiting = None
        with restore_chunk_bytes(self):
            for done, (window, place, following) in enumerate(zip_longest(windows, places, windows[1:]), start=1):
                (t0, t1), (h0, h1), (w0, w1) = window
                window_TCHW = latents_TCHW[t0:t1, :, h0:h1, w0:w1]
                decode = partial(retry_with_smaller_chunks, self, partial(self._decode_window, window_TCHW))
                part_TCHW = decode()
                if waiting is not None:
                    yield waiting.wait()
                    waiting = None
                part_TCHW = checked_part(f"decoding frames {t0} to {t1 - 1}", part_TCHW, self, decode, window_TCHW)
                blend.add(place, part_TCHW)
                del part_TCHW
                end = following[0][0] if following else frames
                if end > blend.taken:
                    waiting = HostCopy(convert(blend.take(end)))
                if progress:
                    progress(done, len(windows))
        assert waiting is not None, "the last window completes the clip"
        yield waiting.wait()

    def _decode_window(self, latents_TCHW: Tensor) -> Tensor:
        return self.decoder(self.to_network(latents_TCHW), self.chunk_bytes)

    def to_network(self, x: Tensor) -> Tensor:
        """Move to the device and dtype the network computes in; a host that offloads weights overrides this."""
        weight = self.decoder.conv_in.weight
        return x.to(weight.device, weight.dtype)


def decode_windows(frames: int, height: int, width: int, tile: int | None = None) -> list[Window]:
    """Windows that are decoded one by one, in latent frames and cells; `tile` as in `VAE.decode`."""
    time = windows(frames, FRAMES_AT_ONCE, _FRAME_STRIDE)
    if tile is None:
        return list(product(time, *(windows(length, LARGEST_TILE, _TILE_STRIDE) for length in (height, width))))
    return list(product(time, *tile_axes(height, width, tile)))


class Encoder(nn.Module):
    """Frames to the mean and log variance of their latents."""

    def __init__(self, config: VAEConfig, ops: Ops) -> None:
        super().__init__()
        channels = config.widths[0]
        self.conv_in = ops.Conv2d(3, channels, kernel_size=3, padding=1)
        self.down = nn.ModuleList()
        for level, width in enumerate(config.widths, start=1):
            self.down.append(Level(channels, width, config.blocks_per_level, level < len(config.widths), ops))
            channels = width
        self.mid = Middle(ResBlock, channels, ops)
        self.norm_out = group_norm(channels, ops)
        self.conv_out = ops.Conv2d(channels, 2 * config.latent_channels, kernel_size=3, padding=1)

    def forward(self, x_TCHW: Tensor, chunk_bytes: int = CHUNK_BYTES) -> Tensor:
        """[T, 3, H, W] to [T, 8, H / 8, W / 8]; `chunk_bytes` is for the temporary tensors of one chunk."""
        if torch.is_grad_enabled():
            chunk_bytes = sys.maxsize
        x_TCHW = self.conv_in(channels_last_on_gpu(x_TCHW))
        for part in (*self.down, *self.mid.children()):
            x_TCHW = part(x_TCHW, chunk_bytes)
        return self.conv_out(norm_silu(self.norm_out, x_TCHW))


class Level(nn.Module):
    """Residual blocks of one resolution, then downsampling."""

    def __init__(self, channels: int, out_channels: int, depth: int, downsamples: bool, ops: Ops) -> None:
        super().__init__()
        inputs = [channels] + [out_channels] * (depth - 1)
        self.block = nn.ModuleList(ResBlock(channels, out_channels, ops) for channels in inputs)
        self.downsample: nn.Module | None = None
        if downsamples:  # padded on the right and at the bottom only
            halve = ops.Conv2d(out_channels, out_channels, kernel_size=3, stride=2)
            self.downsample = nn.Sequential(OrderedDict(pad=nn.ZeroPad2d((0, 1, 0, 1)), conv=halve))

    def forward(self, x_TCHW: Tensor, chunk_bytes: int) -> Tensor:
        for block in self.block:
            x_TCHW = block(x_TCHW, chunk_bytes)
        return x_TCHW if self.downsample is None else self.downsample(x_TCHW)
