"""SVD's conditioning for ComfyUI, computed like the reference (DiffSynth-Studio 1.1.9, svd_video.py).

ComfyUI's own SVD node differs: it crops the image for CLIP and does not blur it, and its noise is twice as strong.
Shapes: T frames, B images, H and W height and width (pixels, or latent cells of 8x8 pixels).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...exvideo_core.errors import ClipError, ExVideoError
from ...exvideo_core.families.svd.conditioning import condition as conditioning_of
from ...exvideo_core.families.svd.geometry import GEOMETRY
from ...exvideo_core.families.svd.vae import SCALING_FACTOR
from ...exvideo_core.sampling.inputs import draw_noise
from ...exvideo_core.video.frames import cover_crop, to_pixels
from ..comfy_bridge.vae import encode_pixels, encoding
from .clip_vision import embed_picture

Conditioning = list[list[Any]]


@dataclass(frozen=True, kw_only=True)
class ClipSize:
    """Size of the clip, in pixels and frames."""

    width: int
    height: int
    frames: int

    def __post_init__(self) -> None:
        GEOMETRY.check_size(self.width, self.height)

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        frames, height, width = GEOMETRY.latent_shape(self.frames, self.height, self.width)
        return frames, 4, height, width

    def pixels(self, pictures: Tensor) -> Tensor:
        """Images [B, H, W, 3 or 4] in [0, 1], resized and cropped to this size, as [B, 3, H, W] in [-1, 1]."""
        return torch.stack([to_pixels(cover_crop(picture[..., :3], self.width, self.height)) for picture in pictures])


def check_parts(clip_vision: Any, vae: Any) -> None:
    """Raise ExVideoError if the checkpoint was only a UNet."""
    if clip_vision is None or vae is None:
        raise ExVideoError(
            "the checkpoint holds no image encoder and no VAE: ModelSave writes the model alone. Take CLIP_VISION and "
            "VAE from another loader, with a complete checkpoint such as svd_xt.safetensors."
        )


@encoding
def condition(
    clip_vision: Any,
    vae: Any,
    image: Tensor,
    size: ClipSize,
    *,
    fps: int,
    motion_bucket_id: int,
    noise: float,
    seed: int,
) -> tuple[Conditioning, Conditioning]:
    """Positive and negative conditioning, with the keys that ComfyUI's own SVD nodes use.

    Args:
        image: [B, H, W, C] in [0, 1]; only the first is used.
        noise: strength of the noise on the image, in [-1, 1] pixels.
        seed: of that noise; the reference draws it from the same seed as the latents' noise.
    """
    settings = {"fps": fps, "motion_bucket_id": motion_bucket_id, "augmentation_level": noise}
    on = conditioning_of(
        size.pixels(image[:1])[0],
        partial(encode_pixels, vae),
        partial(embed_picture, clip_vision),
        fps=fps,
        motion_bucket_id=motion_bucket_id,
        noise_aug_strength=noise,
        image_noise=draw_noise((1, 3, size.height, size.width), seed),
    )
    context_B1D, latents_BCHW = on.embedding[:, None], on.image_latents
    positive = [[context_B1D, {**settings, "concat_latent_image": latents_BCHW}]]
    negative = [[torch.zeros_like(context_B1D), {**settings, "concat_latent_image": torch.zeros_like(latents_BCHW)}]]
    return positive, negative


def start_latents(
    vae: Any,
    size: ClipSize,
    init_video: Tensor | None = None,
    keyframes: dict[int, Tensor] | None = None,
    encode_scale: float = SCALING_FACTOR,
) -> dict[str, Tensor]:
    """Latents that sampling starts from: empty or of a given clip, with keyframes that stay fixed.

    Args:
        init_video: [at least T, H, W, C] in [0, 1].
        keyframes: images [H, W, C] by frame.
        encode_scale: factor on encoded frames; 0.13025 is the reference's (see the design notes).
    """
    latents_TCHW = torch.zeros(size.latent_shape)
    rescale = encode_scale / SCALING_FACTOR  # ComfyUI's samplers multiply by SCALING_FACTOR
    if init_video is not None:
        if len(init_video) < size.frames:
            raise ClipError(
                f"the video to start from has {len(init_video)} frames, and {size.frames} are asked for. "
                f"Set frames to {len(init_video)}, or give a longer video."
            )
        latents_TCHW = encode_pixels(vae, size.pixels(init_video[: size.frames])) * rescale
    if not keyframes:
        return {"samples": latents_TCHW}
    mask_T1HW = torch.ones(size.frames, 1, *latents_TCHW.shape[2:])
    for index, picture in keyframes.items():
        latents_TCHW[index] = encode_pixels(vae, size.pixels(picture[None]))[0] * rescale
        mask_T1HW[index] = 0
    return {"samples": latents_TCHW, "noise_mask": mask_T1HW}


def continue_clip(
    positive: Conditioning, latent: dict[str, Tensor], before_TCHW: Tensor, shared: int
) -> tuple[Conditioning, dict[str, Tensor]]:
    """Continue another clip: its last frames are the first of this one, and the first of them is its image.

    The latents are copied. Decoding and encoding them again would change them, and the clip would jump there.

    Args:
        before_TCHW: sampled latents.
        shared: frames, at least 1.
    """
    start_TCHW, mask_T1HW = latent["samples"].clone(), latent.get("noise_mask")
    if before_TCHW.shape[1:] != start_TCHW.shape[1:]:
        raise ClipError(
            f"the clip to continue has latents of shape {tuple(before_TCHW.shape)}, and this one "
            f"{tuple(start_TCHW.shape)}. Give both the same width and height, and connect a latent of SVD."
        )
    if not shared < len(start_TCHW) or shared > len(before_TCHW):
        raise ClipError(
            f"{shared} shared frames were asked for, of a clip of {len(before_TCHW)} frames, for one of "
            f"{len(start_TCHW)}. Set shared_frames to {min(len(start_TCHW) - 1, len(before_TCHW))} or fewer."
        )
    mask_T1HW = torch.ones_like(start_TCHW[:, :1]) if mask_T1HW is None else mask_T1HW.clone()
    start_TCHW[:shared] = before_TCHW[-shared:]
    mask_T1HW[:shared] = 0
    settings = {**positive[0][1], "concat_latent_image": before_TCHW[-shared][None].clone()}
    return [[positive[0][0], settings]], {**latent, "samples": start_TCHW, "noise_mask": mask_T1HW}


def join(first_TCHW: Tensor, second_TCHW: Tensor, shared: int) -> Tensor:
    """Join a clip and the new frames of its continuation."""
    if first_TCHW.ndim != 4 or first_TCHW.shape[1:] != second_TCHW.shape[1:]:
        raise ClipError(
            f"latents of shape {tuple(first_TCHW.shape)} and {tuple(second_TCHW.shape)} cannot be joined. Connect two "
            f"clips of SVD with the same width and height."
        )
    if shared >= len(second_TCHW):
        raise ClipError(
            f"the second clip has {len(second_TCHW)} frames, and {shared} are to be left out. Set shared_frames as in "
            f"its conditioning."
        )
    return torch.cat([first_TCHW, second_TCHW[shared:].to(first_TCHW)])


def parse_indices(text: str) -> list[int]:
    """Frame numbers from text such as "0, 64, 127"."""
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise ClipError(f"keyframe indices {text!r}: write whole numbers with commas, such as 0, 64, 127.") from error


def place_keyframes(pictures: Tensor | None, indices: list[int], frames: int) -> dict[int, Tensor]:
    """Images by frame.

    Raises:
        ClipError: the numbers of images and indices differ, or an index is outside the clip or there twice.
    """
    count = 0 if pictures is None else len(pictures)
    if count != len(indices):
        raise ClipError(
            f"there are {count} keyframes and {len(indices)} keyframe indices. Give one index for each picture."
        )
    outside = [index for index in indices if not 0 <= index < frames]
    if outside:
        raise ClipError(f"keyframe index {outside[0]} is not in the clip: its frames are 0 to {frames - 1}.")
    if len(set(indices)) < len(indices):
        raise ClipError(f"the keyframe indices {', '.join(map(str, indices))} name a frame twice.")
    return {} if pictures is None else dict(zip(indices, pictures, strict=True))
