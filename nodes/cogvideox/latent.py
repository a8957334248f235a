"""Latents that CogVideoX starts from.

Shapes: F frames, T latent frames, H and W height and width (pixels, or latent cells of 8x8 pixels).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...exvideo_core.errors import ClipError
from ...exvideo_core.families.cogvideox.geometry import GEOMETRY
from ...exvideo_core.video.frames import cover_crop
from .model import CogVideoXLatents


def start_latents(
    width: int, height: int, frames: int, vae: Any = None, init_video: Tensor | None = None
) -> dict[str, Tensor]:
    """Empty latents or those of a given clip: raw, [1, 16, T, H, W].

    Args:
        width, height: in pixels.
        frames: F.
        vae: CogVideoX's, to encode the clip.
        init_video: [at least F, H, W, C] in [0, 1]; resized and cropped.
    """
    GEOMETRY.check_size(width, height)
    GEOMETRY.check_frames(frames)
    if init_video is None:
        shape = (1, CogVideoXLatents.latent_channels, *GEOMETRY.latent_shape(frames, height, width))
        return {"samples": torch.zeros(shape)}
    if vae is None:
        raise ClipError("the video to start from has to be encoded. Connect the VAE of Load ExVideo CogVideoX.")
    if len(init_video) < frames:
        fewer = GEOMETRY.most_frames(len(init_video))
        raise ClipError(
            f"the video to start from has {len(init_video)} frames, and {frames} are asked for. Set frames to {fewer} "
            f"or fewer, or give a longer video."
        )
    cropped = [cover_crop(frame[..., :3], width, height) for frame in init_video[:frames]]
    latents_BCTHW: Tensor = vae.encode(torch.stack(cropped))
    return {"samples": latents_BCTHW}
