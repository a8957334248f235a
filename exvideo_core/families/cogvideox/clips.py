"""Clips to train CogVideoX on.

Shapes: T frames, C channels, H and W pixels or latent cells, L tokens, D channels of the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from ...runtime.distributed import World
from ...runtime.memory import free_bytes, num_bytes
from ...training.data.cache import Encode, read_cached
from ...training.sources import (
    EncodedClips,
    OnPrepare,
    Source,
    cache_folder,
    content_mark,
    encode_videos,
    encoding_format,
    to_pixels,
)
from ...weights.write import write_weights
from .checkpoint import read_text_encoder, read_vae
from .pipeline import build_text_encoder, build_vae
from .text_encoder import TextEncoder
from .training_config import CogVideoXTraining

_TENSORS = ("latents", "context", "fps")  # of a cached clip
_WORKING_SPACE = 6 * 2**30  # bytes that encoding a clip takes beside the text encoder


@dataclass(frozen=True, kw_only=True)
class CogVideoXClip:
    """A clip and its caption."""

    latents_CTHW: Tensor  # raw
    context_LD: Tensor  # of the caption
    fps: float


def clips_of_videos(
    config: CogVideoXTraining, vae_path: Path, text_path: Path, world: World, on_prepare: OnPrepare | None = None
) -> tuple[Source[CogVideoXClip], Tensor]:
    """Clips cut from videos and encoded, which the processes share, and the embedding of the empty prompt, [L, D]."""
    vae_part, text_part = read_vae(vae_path), read_text_encoder(text_path)
    mark = content_mark((vae_part.weights, text_part.weights))

    @lru_cache(maxsize=1)
    def text_encoder_on_device() -> TextEncoder:
        encoder = build_text_encoder(text_part).to(encoding_format(world.device))
        has_room = num_bytes(encoder) + _WORKING_SPACE < free_bytes(world.device)
        return encoder.to(world.device) if has_room else encoder

    def build_encode() -> Encode:
        vae = build_vae(vae_part).to(world.device, encoding_format(world.device))
        text_encoder = text_encoder_on_device()

        @torch.no_grad()
        def encode(frames_THWC: Tensor, caption: str, fps: float) -> Mapping[str, Tensor]:
            latents = vae.encode(to_pixels(rearrange(frames_THWC, "T H W C -> 1 C T H W")))[0]
            return {
                "latents": latents.half().cpu(),
                "context": embedded(text_encoder, caption).half(),
                "fps": torch.tensor(fps),
            }

        return encode

    files = encode_videos(config, world, mark, build_encode, on_prepare)
    no_text = cache_folder(config) / f"no_text_{mark[:16]}.safetensors"
    if world.is_first and not no_text.exists():
        write_weights(no_text, {"context": embedded(text_encoder_on_device(), "").half()})
    world.wait()
    text_encoder_on_device.cache_clear()  # training needs its many GB
    no_text_LD = read_cached(no_text, ("context",))["context"].float()
    return EncodedClips(files, config, _clip, _TENSORS), no_text_LD


@torch.no_grad()
def embedded(text_encoder: TextEncoder, caption: str) -> Tensor:
    """Embedding of a caption, [L, D], on the CPU."""
    return text_encoder([caption])[0].float().cpu()


def _clip(tensors: Mapping[str, Tensor]) -> CogVideoXClip:
    return CogVideoXClip(
        latents_CTHW=tensors["latents"].float(), context_LD=tensors["context"].float(), fps=float(tensors["fps"])
    )
