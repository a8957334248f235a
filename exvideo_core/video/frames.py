"""Pictures and clips as tensors: ranges, layouts, sizes.

Networks use *pixels*: float32 in [-1, 1], channels first. Files and ComfyUI use *frames*: float32 in [0, 1], channels
last, which is also the layout of one picture.

Shapes: T frames, C = 3 colours (red, green, blue), H and W height and width in pixels.
"""

from __future__ import annotations

from typing import overload

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from ..errors import VideoError
from .pictures import decoding

_OVERSHOOT = 0.25  # bicubic resizing overshoots [0, 1] by less; [-1, 1] and [0, 255] exceed it by more


def to_pixels(image: Image.Image | Tensor) -> Tensor:
    """Convert a picture to pixels.

    An 8-bit value x becomes x * 2 / 255 - 1, in the rounding of the reference (DiffSynth 1.1.9,
    `BasePipeline.preprocess_image`). PIL pictures are rotated upright (EXIF) and composited over black.

    Args:
        image: a PIL picture of any mode, or float [H, W, 3] in [0, 1]; a slight overshoot is clamped.

    Returns:
        [3, H, W] float32 in [-1, 1], on the picture's device.

    Raises:
        VideoError: the picture has NaN or Inf, or a PIL mode without a fixed range.
        ValueError: the tensor has another shape, dtype or range.
    """
    if isinstance(image, Image.Image):
        image_HWC = np.asarray(_upright_rgb(image), dtype=np.float32) * (2 / 255) - 1
        return torch.from_numpy(rearrange(image_HWC, "H W C -> C H W").copy())
    return rearrange(_checked_picture(image).float() * 2 - 1, "H W C -> C H W").contiguous()


def pixels_to_frames(video_TCHW: Tensor) -> Tensor:
    """Pixels [T, 3, H, W] in [-1, 1], clamped, to frames [T, H, W, 3] float32 in [0, 1]."""
    frames = (video_TCHW.float() + 1) / 2
    return rearrange(frames.clamp(0, 1), "T C H W -> T H W C").contiguous()


def to_uint8(frames: Tensor) -> Tensor:
    """Frames of any float dtype, clipped to [0, 1], to uint8, truncated as in the reference.

    The reference clips and truncates (x + 1) * 127.5 (DiffSynth 1.1.9, `tensor2video`), which for x = 2 f - 1 is
    f * 255, bit-equal in float32. Values u / 255 come back as u; pixels u * 2 / 255 - 1 lose one level for 47 of the
    256 values, as in the reference. The caller checks for NaN.
    """
    return (frames.float() * 255).clamp(0, 255).to(torch.uint8)


def to_uint16(frames: Tensor) -> Tensor:
    """Frames of any float dtype, clipped to [0, 1], or of uint8, to uint16, rounded; for encoders of more than 8 bits.

    The 8-bit value u becomes 257 u, from float or uint8. The caller checks for NaN.
    """
    if frames.dtype == torch.uint8:
        return (frames.to(torch.int32) * 257).to(torch.uint16)
    return (frames.float() * 65535).round().clamp(0, 65535).to(torch.int32).to(torch.uint16)


@overload
def cover_crop(image: Image.Image, width: int, height: int) -> Image.Image: ...
@overload
def cover_crop(image: Tensor, width: int, height: int) -> Tensor: ...
def cover_crop(image: Image.Image | Tensor, width: int, height: int) -> Image.Image | Tensor:
    """Resize a picture to cover width x height, then crop the centre.

    PIL pictures are rotated upright, converted to RGB and resized with Lanczos; tensors [H, W, 3] in [0, 1] with
    antialiased bicubic, clamped. A picture of that size keeps its values.
    """
    if width < 1 or height < 1:
        raise ValueError(f"{width=} and {height=} must be positive")
    if isinstance(image, Image.Image):
        return ImageOps.fit(_upright_rgb(image), (width, height), Image.Resampling.LANCZOS)
    image_HWC = _checked_picture(image)
    old_height, old_width = image_HWC.shape[:2]
    scale = max(width / old_width, height / old_height)
    cover = (max(height, round(old_height * scale)), max(width, round(old_width * scale)))
    if cover != (old_height, old_width):
        image_BCHW = rearrange(image_HWC.float(), "H W C -> 1 C H W")
        image_BCHW = F.interpolate(image_BCHW, cover, mode="bicubic", antialias=True, align_corners=False)
        image_HWC = rearrange(image_BCHW.clamp(0, 1), "1 C H W -> H W C")
    top, left = (cover[0] - height) // 2, (cover[1] - width) // 2
    return image_HWC[top : top + height, left : left + width].contiguous()


@decoding()
def _upright_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        raise VideoError(
            f"the picture has mode {image.mode} (32 bits a pixel), whose black and white are not defined. "
            "Save it with 8 or 16 bits per colour."
        )
    if image.mode.startswith("I;16"):  # PIL's own conversion clips 16-bit greys at 255
        image = Image.fromarray((np.asarray(image, dtype=np.uint32) // 257).astype(np.uint8))
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, picture)
    return image.convert("RGB")


def _checked_picture(image: Tensor) -> Tensor:
    """The tensor clamped to [0, 1], if it is a float picture [H, W, 3]."""
    if not isinstance(image, Tensor):
        raise TypeError(f"a picture is a PIL picture or a tensor, not {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.numel() == 0:
        raise ValueError(f"a picture has the shape [H, W, 3], not {list(image.shape)}")
    if not image.is_floating_point():
        raise ValueError(f"a picture is a float tensor in [0, 1], not {image.dtype}: convert it, and divide by 255")
    if not bool(image.isfinite().all()):
        raise VideoError("the picture has NaN or Inf. Use another one, or make it again.")
    low, high = float(image.min()), float(image.max())
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        raise ValueError(f"a picture has values in [0, 1], not in [{low:.3g}, {high:.3g}]")
    return image.clamp(0, 1)
