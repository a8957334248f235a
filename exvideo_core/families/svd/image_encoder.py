"""SVD's image encoder: CLIP ViT-H/14 (arXiv:2103.00020) from `transformers`, and SVD's preprocessing.

Shapes: B images, H and W pixels, D channels of the embedding.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...nn.nan_check import checked
from .config import ImageEncoderConfig

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection

_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's normalisation of pixels in [0, 1]
_STD = (0.26862954, 0.26130258, 0.27577711)


class ImageEncoder(nn.Module):
    """Images [B, 3, H, W] in [-1, 1], of any size, to embeddings [B, D]."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.clip = build_clip(config)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        weight = self.clip.visual_projection.weight
        pixels_BCHW = clip_pixels(image_BCHW.to(weight.device), self.config.image_size).to(weight.dtype)

        def encode() -> Tensor:
            return self.clip(pixels_BCHW).image_embeds

        return checked(encode(), self.clip, encode, {"the picture": pixels_BCHW})


def fill_buffers(clip: CLIPVisionModelWithProjection) -> None:
    """Set the buffers of a tower built on the meta device that no weight file contains: the position ids."""
    embeddings = clip.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions).view(1, -1)


def build_clip(config: ImageEncoderConfig) -> CLIPVisionModelWithProjection:
    """A vision tower of the given sizes, without weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection  # slow to import, only needed here

    return CLIPVisionModelWithProjection(CLIPVisionConfig(**asdict(config), hidden_act="gelu"))


def clip_pixels(image_BCHW: Tensor, size: int = 224) -> Tensor:
    """Resize images to a square (no crop, blurred against aliasing) and normalise them for CLIP, as in SVD's training.

    [B, 3, H, W] in [-1, 1] to [B, 3, size, size] float32.
    """
    x_BCHW = image_BCHW.float()
    for axis in (3, 2):
        x_BCHW = _blur(x_BCHW, axis, factor=image_BCHW.shape[axis] / size)
    x_BCHW = F.interpolate(x_BCHW, size=(size, size), mode="bicubic", align_corners=True)
    mean, std = (torch.tensor(v, device=x_BCHW.device).view(1, 3, 1, 1) for v in (_MEAN, _STD))
    return ((x_BCHW + 1) / 2 - mean) / std


def _blur(x_BCHW: Tensor, axis: int, factor: float) -> Tensor:
    """Gaussian blur along one axis against aliasing when it shrinks by `factor`, with reflection padding."""
    sigma = max((factor - 1) / 2, 0.001)
    taps = int(max(4 * sigma, 3)) | 1  # odd
    offset = torch.arange(taps, device=x_BCHW.device, dtype=torch.float32) - taps // 2
    kernel = torch.exp(-(offset**2) / (2 * sigma**2))
    shape = [1, 1, 1, 1]
    shape[axis] = taps
    weight = (kernel / kernel.sum()).view(shape).expand(x_BCHW.shape[1], 1, *shape[2:])
    pad = [taps // 2, taps // 2, 0, 0] if axis == 3 else [0, 0, taps // 2, taps // 2]
    return F.conv2d(F.pad(x_BCHW, pad, mode="reflect"), weight, groups=x_BCHW.shape[1])
