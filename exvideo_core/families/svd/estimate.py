"""Estimates for Stable Video Diffusion: its networks, counted on the meta device."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from functools import partial

import torch

from ...estimate.counting import Counts, Elsewhere, count
from ...estimate.jobs import Clip, Estimate, Estimates, Place, on_meta, total
from ...nn.chunks import CHUNK_BYTES
from ...runtime.memory import num_bytes
from .config import UNetConfig, VAEConfig
from .defaults import PLAIN
from .geometry import GEOMETRY
from .lazy_frames import keep
from .unet import SVDUNet, blocks_of
from .vae import FRAMES_AT_ONCE, VAE, decode_windows


def estimate_svd(unet: UNetConfig, vae: VAEConfig, clip: Clip, place: Place, other_weights: int = 0) -> Estimate:
    """Estimate a clip from the networks' sizes; `other_weights` are the image encoder's bytes on the device."""
    latent_shape = GEOMETRY.latent_shape(clip.frames, clip.height, clip.width)
    denoiser = on_meta(lambda: SVDUNet(unet), place.dtype)
    coder = on_meta(lambda: VAE(vae), place.dtype)
    return total(
        clip,
        place,
        denoiser=denoiser,
        blocks=blocks_of(denoiser),
        call=count_call(
            unet, latent_shape, place.dtype, chunk_bytes=place.chunk_bytes, offload_skips=place.is_streamed
        ),
        decoding=_decoding(coder, vae.latent_channels, latent_shape, place),
        other_weights=num_bytes(coder) + other_weights,
    )


@functools.lru_cache(maxsize=64)
def count_call(
    config: UNetConfig,
    latent_shape: tuple[int, int, int],
    dtype: torch.dtype,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    offload_skips: bool = False,
) -> Counts:
    """One call of the UNet on frames, height and width of latents; with `offload_skips` they wait in host memory."""
    frames, height, width = latent_shape
    unet = _unet(config, dtype)
    unet.chunk_bytes = chunk_bytes
    unet.offload_skip = Elsewhere if offload_skips else keep

    def call() -> None:
        x_TCHW = torch.empty(frames, config.in_channels, height, width, dtype=dtype)
        unet(x_TCHW, torch.empty(1), torch.empty(1, config.context_dim), torch.empty(1, 3))

    return count(call)


@functools.lru_cache(maxsize=1)
def _unet(config: UNetConfig, dtype: torch.dtype) -> SVDUNet:
    return on_meta(lambda: SVDUNet(config), dtype)


@functools.lru_cache(maxsize=16)
def count_decoding(
    config: VAEConfig, size: tuple[int, int], dtype: torch.dtype, chunk_bytes: int = CHUNK_BYTES
) -> Counts:
    """One window of the decoder, of this height and width in latent cells."""
    coder = on_meta(lambda: VAE(config), dtype)
    shape = (FRAMES_AT_ONCE, config.latent_channels, *size)
    return count(lambda: coder.decoder(torch.empty(shape, dtype=dtype), chunk_bytes))


@functools.lru_cache(maxsize=16)
def count_encoding(
    config: VAEConfig, size: tuple[int, int], dtype: torch.dtype, chunk_bytes: int = CHUNK_BYTES, frames: int = 1
) -> Counts:
    """Frames that the encoder takes at once, of this height and width in pixels."""
    coder = on_meta(lambda: VAE(config), dtype)
    return count(lambda: coder.encoder(torch.empty(frames, 3, *size, dtype=dtype), chunk_bytes))


def _decoding(
    coder: VAE, channels: int, latent_shape: tuple[int, int, int], place: Place
) -> Iterator[tuple[Counts, int]]:
    windows = Counter(tuple(end - start for start, end in window) for window in decode_windows(*latent_shape))
    for (frames, height, width), times in windows.items():
        z_TCHW = torch.empty(frames, channels, height, width, dtype=place.dtype, device="meta")
        yield count(partial(coder.decoder, z_TCHW, place.chunk_bytes)), times


ESTIMATES = Estimates(
    call=count_call,
    usual=lambda config: Clip(frames=config.extension_frames or PLAIN.num_frames, height=512, width=512, steps=50),
    geometry=GEOMETRY,
)
