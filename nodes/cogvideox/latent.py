"""What CogVideoX starts from, in ComfyUI's terms.

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


def check_clip(width: int | None, height: int | None, frames: int | None) -> None:
    """Raise ClipError with the nearest valid values; None is not known yet."""
    if width is not None and height is not None:
        GEOMETRY.check_size(width, height)
    if frames is not None:
        GEOMETRY.check_frames(frames)


def start_latents(
    width: int, height: int, frames: int, vae: Any = None, init_video: Tensor | None = None
) -> dict[str, Tensor]:
    """Nothing, or a clip to vary: raw latents [1, 16, T, H, W].

    Args:
        width, height: in pixels.
        frames: F.
        vae: CogVideoX's, for the clip to vary.
        init_video: [at least F, H, W, C] in [0, 1]; resized and cut.
    """
    check_clip(width, height, frames)
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
    pictures = [cover_crop(picture[..., :3], width, height) for picture in init_video[:frames]]
    latents_BCTHW: Tensor = vae.encode(torch.stack(pictures))
    return {"samples": latents_BCTHW}
