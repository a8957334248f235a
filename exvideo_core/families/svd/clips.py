"""Clips to train Stable Video Diffusion on.

Shapes: T frames, C channels, H and W pixels or latent cells, D channels of the picture's embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ...runtime.distributed import World
from ...training.sources import EncodedClips, OnPrepare, Source, content_mark, encode_videos, to_pixels
from .checkpoint import SVDWeights
from .image_encoder import ImageEncoder
from .motion_buckets import motion_bucket
from .training_config import SVDTraining
from .vae import VAE

_TENSORS = ("latents", "picture", "context", "fps", "motion_bucket")  # of a cached clip


@dataclass(frozen=True, kw_only=True)
class SVDClip:
    """A clip and the picture it begins with."""

    latents_TCHW: Tensor  # raw
    picture_3HW: Tensor  # of the first frame, [-1, 1]
    context_1D: Tensor  # of the picture
    fps: float
    motion_bucket_id: float


def clips_of_videos(
    config: SVDTraining,
    weights: SVDWeights,
    encoders: tuple[VAE, ImageEncoder],
    world: World,
    on_prepare: OnPrepare | None = None,
) -> Source[SVDClip]:
    """Clips cut from videos and encoded, which the processes of the world share."""
    vae, image_encoder = encoders

    @torch.no_grad()
    def encode(frames_THWC: Tensor, _caption: str, fps: float) -> Mapping[str, Tensor]:
        pixels_TCHW = rearrange(frames_THWC, "T H W C -> T C H W")
        latents = [vae.encode(to_pixels(frame_CHW)[None])[0] for frame_CHW in pixels_TCHW]
        return {
            "latents": torch.stack(latents).half().cpu(),
            "picture": pixels_TCHW[0],
            "context": image_encoder(to_pixels(pixels_TCHW[0])[None].to(world.device)).float().cpu(),
            "fps": torch.tensor(fps),
            "motion_bucket": torch.tensor(motion_bucket(frames_THWC)),
        }

    mark = content_mark((weights.vae, weights.image_encoder))
    files = encode_videos(config, world, mark, lambda: encode, on_prepare)
    return EncodedClips(files, config, _clip, _TENSORS)


def _clip(tensors: Mapping[str, Tensor]) -> SVDClip:
    return SVDClip(
        latents_TCHW=tensors["latents"].float(),
        picture_3HW=to_pixels(tensors["picture"]),
        context_1D=tensors["context"],
        fps=float(tensors["fps"]),
        motion_bucket_id=float(tensors["motion_bucket"]),
    )
