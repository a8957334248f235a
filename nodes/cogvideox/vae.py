"""CogVideoX's autoencoder as ComfyUI's VAE: two latent frames at a time, whatever memory is free.

Shapes: T latent frames, F frames, H and W height and width (pixels, or latent cells of 8x8 pixels).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...exvideo_core.errors import ExVideoError
from ...exvideo_core.families.cogvideox.config import Shapes, VAEConfig
from ...exvideo_core.families.cogvideox.estimate import count_decoding, count_encoding
from ...exvideo_core.families.cogvideox.geometry import GEOMETRY
from ...exvideo_core.families.cogvideox.vae import SPATIAL_FACTOR, TEMPORAL_FACTOR, CogVideoXVAE, frames_of_clip
from ...exvideo_core.nn.layers import Ops
from ...exvideo_core.nn.out_of_memory import SMALLEST_TILE, retry_with_smaller_tiles
from ...exvideo_core.runtime.decoded_frames import concatenated
from .. import host
from ..comfy_bridge import compat
from ..comfy_bridge.vae import CoreVAE, Placed, decoding


class HostedVAE(Placed, CogVideoXVAE):
    """CogVideoX's autoencoder on the device that ComfyUI chooses."""


class CogVAE(CoreVAE):
    """ComfyUI's VAE object with the core's decoding, called by VAEDecode, VAEDecodeTiled, VAEEncode and the like.

    Along time the clip is always split as the model defines it (ComfyUI's own tiles would change the frames); along
    height and width only where VAEDecodeTiled asks, or when out of memory.
    """

    def describe(self) -> None:
        self.working_dtypes = [torch.bfloat16, torch.float16, torch.float32]
        self.latent_dim, self.latent_channels = 3, 16
        self.upscale_ratio = (lambda t: max(0, TEMPORAL_FACTOR * (t - 1) + 1), SPATIAL_FACTOR, SPATIAL_FACTOR)
        self.downscale_ratio = (
            lambda frames: max(0, (frames + TEMPORAL_FACTOR - 1) // TEMPORAL_FACTOR),
            SPATIAL_FACTOR,
            SPATIAL_FACTOR,
        )
        self.upscale_index_formula = self.downscale_index_formula = (TEMPORAL_FACTOR, SPATIAL_FACTOR, SPATIAL_FACTOR)

    def build(self, weights: Mapping[str, Tensor], shapes: Shapes, layers: Ops) -> HostedVAE:
        return HostedVAE(VAEConfig.from_shapes(shapes), layers)

    @decoding
    def decode(self, samples_in: Tensor, vae_options: Any = None) -> Tensor:
        """Raw latents [B, 16, T, h, w] to frames [B, F, H, W, 3] in [0, 1]; in tiles when out of memory."""
        _check(samples_in, self.latent_channels)
        side = max(samples_in.shape[-2:])
        return retry_with_smaller_tiles(lambda tile: self._decode(samples_in, tile or side), side)

    @decoding
    def decode_tiled(
        self, samples: Tensor, tile_x: int | None = None, tile_y: int | None = None, *_overlaps: Any, **_tiles: Any
    ) -> Tensor:
        """Decode in overlapping tiles of so many latent cells, along height and width only."""
        _check(samples, self.latent_channels)
        side = min(max(tile_x or 0, tile_y or 0, SMALLEST_TILE), max(samples.shape[-2:]))
        return retry_with_smaller_tiles(lambda smaller: self._decode(samples, smaller or side), side)

    def _decode(self, latents_BCTHW: Tensor, side: int) -> Tensor:
        height, width = (min(length, side) for length in latents_BCTHW.shape[-2:])
        self._load(self._decode_memory((height, width), self.vae_dtype))
        tile = None if side >= max(latents_BCTHW.shape[-2:]) else side
        clips = []
        for latents_CTHW in latents_BCTHW:
            spans = self.first_stage_model.decode_spans(latents_CTHW[None], host.progress(1), tile, frames_of_clip)
            clips.append(concatenated(spans, GEOMETRY.frames_of(latents_CTHW.shape[1])))
        return torch.stack(clips).to(self.output_device, compat.intermediate_dtype())

    def _encode(self, video_TCHW: Tensor) -> Tensor:
        latents_BCTHW: Tensor = self.first_stage_model.encode(video_TCHW.movedim(1, 0)[None], host.progress(1))
        return latents_BCTHW

    def _decode_memory(self, shape: Any, dtype: torch.dtype) -> float:
        return count_decoding(
            self.first_stage_model.config, tuple(shape[-2:]), dtype, self.first_stage_model.chunk_bytes
        ).peak

    def _encode_memory(self, shape: Any, dtype: torch.dtype) -> float:
        return count_encoding(
            self.first_stage_model.config, tuple(shape[-2:]), dtype, self.first_stage_model.chunk_bytes
        ).peak


def _check(latents: Tensor, channels: int) -> None:
    if latents.ndim != 5 or latents.shape[1] != channels:
        raise ExVideoError(
            f"this latent is not CogVideoX's (its shape is {list(latents.shape)}; "
            f"[1, {channels}, T, height / 8, width / 8] is needed). Take the VAE of the model that made it."
        )
