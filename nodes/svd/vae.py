"""SVD's autoencoder as ComfyUI's VAE: any decoding node gets the same frames, whatever memory is free.

Shapes: T frames, H and W height and width (pixels, or latent cells of 8x8 pixels).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...exvideo_core.families.svd.config import Shapes, VAEConfig
from ...exvideo_core.families.svd.estimate import count_decoding, count_encoding
from ...exvideo_core.families.svd.vae import LARGEST_TILE, VAE
from ...exvideo_core.nn.layers import Ops
from ...exvideo_core.nn.out_of_memory import retry_with_smaller_tiles
from ...exvideo_core.runtime.decoded_frames import concatenated
from ...exvideo_core.video.frames import pixels_to_frames
from .. import host
from ..comfy_bridge import compat
from ..comfy_bridge.vae import CoreVAE, Placed, decoding


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
        spans = self.first_stage_model.decode_spans(latents_TCHW, host.progress(1), tile, pixels_to_frames)
        return concatenated(spans, len(latents_TCHW)).to(self.output_device, compat.intermediate_dtype())

    def decode_tiled(self, samples: Tensor, *_tile_sizes: Any, **_more_tile_sizes: Any) -> Tensor:
        """Decode as `decode` does."""
        return self.decode(samples)

    def _encode(self, video_TCHW: Tensor) -> Tensor:
        latents_TCHW: Tensor = self.first_stage_model.encode(video_TCHW, host.progress(1))
        return latents_TCHW

    def _decode_memory(self, shape: Any, dtype: torch.dtype) -> float:
        height, width = (min(side, LARGEST_TILE) for side in shape[-2:])
        return count_decoding(
            self.first_stage_model.config, (height, width), dtype, self.first_stage_model.chunk_bytes
        ).peak

    def _encode_memory(self, shape: Any, dtype: torch.dtype) -> float:
        vae, size = self.first_stage_model, tuple(shape[-2:])
        frames = min(shape[0], vae.frames_encoded_at_once(*size))
        return count_encoding(vae.config, size, dtype, vae.chunk_bytes, frames).peak
