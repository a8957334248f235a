"""SVD's autoencoder as ComfyUI's VAE: any decoding node gets the same frames, whatever memory is free.

Shapes: T frames, H and W height and width (pixels, or latent cells of 8x8 pixels).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...exvideo_core.families.svd.config import Shapes, VAEConfig
from ...exvideo_core.families.svd.vae import FRAMES_AT_ONCE, LARGEST_TILE, SPATIAL_FACTOR, VAE
from ...exvideo_core.nn.layers import Ops
from ...exvideo_core.nn.out_of_memory import retry_with_smaller_tiles
from ...exvideo_core.video.frames import pixels_to_frames
from .. import host
from ..comfy_bridge import compat
from ..comfy_bridge.vae import CoreVAE, Placed, decoding

# Counted on the meta device (tests/nodes/test_memory.py: 1.2 GB in 16 bits for 8 frames of 512x512 pixels, 3.5 GB of
# 1024x1024): a map is one frame on the finest level.
_BESIDE_WINDOW = 1.5  # maps
_KEPT_CHUNKS = 4  # of a second window; what is more is computed again
_ENCODING, _WHOLE_ENCODING = 2.5, 1.5  # maps, and more as long as they are within a piece


class HostedVAE(Placed, VAE):
    """SVD's autoencoder on the device that ComfyUI chooses."""


class SVDVAE(CoreVAE):
    """ComfyUI's VAE object with the core's decoding: overlapping windows of 8 frames, blended.

    ComfyUI would cut the clip by free memory, without overlap, and with little memory frame by frame. Tile sizes that
    nodes ask for are ignored: the windows bound memory.
    """

    def build(self, weights: Mapping[str, Tensor], shapes: Shapes, layers: Ops) -> HostedVAE:
        return HostedVAE(VAEConfig.from_shapes(shapes), "quant_conv.weight" in weights, layers)

    @decoding
    def decode(self, samples_in: Tensor, vae_options: Any = None) -> Tensor:
        """Raw latents [T, 4, h, w] to frames [T, H, W, 3] in [0, 1]; in tiles when out of memory."""
        latents_TCHW = samples_in[:, :, 0] if samples_in.ndim == 5 else samples_in
        side = min(max(latents_TCHW.shape[-2:]), LARGEST_TILE)
        return retry_with_smaller_tiles(lambda tile: self._decode(latents_TCHW, tile), side)

    def _decode(self, latents_TCHW: Tensor, tile: int | None) -> Tensor:
        sides = (min(side, tile or side) for side in latents_TCHW.shape[-2:])
        self._load(self._decode_memory((*latents_TCHW.shape[:2], *sides), self.vae_dtype))
        video_TCHW = self.first_stage_model.decode(latents_TCHW, host.progress(1), tile)
        return pixels_to_frames(video_TCHW).to(self.output_device, compat.intermediate_dtype())

    def decode_tiled(self, samples: Tensor, *_tile_sizes: Any, **_more_tile_sizes: Any) -> Tensor:
        """Decode as `decode` does."""
        return self.decode(samples)

    def _encode(self, video_TCHW: Tensor) -> Tensor:
        latents_TCHW: Tensor = self.first_stage_model.encode(video_TCHW, host.progress(1))
        return latents_TCHW

    def _decode_memory(self, shape: Any, dtype: torch.dtype) -> float:
        frame = self._map(min(shape[-2] * shape[-1], LARGEST_TILE**2) * SPATIAL_FACTOR * SPATIAL_FACTOR, dtype)
        piece, window = self.first_stage_model.chunk_bytes, FRAMES_AT_ONCE * frame
        return window + _BESIDE_WINDOW * frame + min(window, _KEPT_CHUNKS * piece) + piece

    def _encode_memory(self, shape: Any, dtype: torch.dtype) -> float:
        frame = self._map(shape[-2] * shape[-1], dtype)
        return _ENCODING * frame + min(_WHOLE_ENCODING * frame, self.first_stage_model.chunk_bytes)

    def _map(self, pixels: int, dtype: torch.dtype) -> float:
        """Bytes of one frame on the finest level."""
        return pixels * self.first_stage_model.config.widths[0] * dtype.itemsize
