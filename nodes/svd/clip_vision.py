"""SVD's image encoder as ComfyUI's CLIP_VISION, with the preprocessing that SVD was trained with."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from comfy import model_management
from torch import Tensor

from ...exvideo_core.errors import CheckpointError
from ...exvideo_core.families.svd.checkpoint import SVDWeights
from ...exvideo_core.families.svd.config import ImageEncoderConfig
from ...exvideo_core.families.svd.image_encoder import clip_pixels
from ...exvideo_core.nn.nan_check import checked
from ...exvideo_core.weights.assign import misfit, shapes_of
from ..comfy_bridge import compat


def make_clip_vision(weights: SVDWeights) -> Any:
    """ComfyUI's CLIP_VISION object around the image encoder's weights."""
    sizes = ImageEncoderConfig.from_shapes(shapes_of(weights.image_encoder))
    others = {"model_type": "clip_vision_model", "hidden_act": "gelu", "layer_norm_eps": 1e-5, "num_channels": 3}
    clip_vision = compat.clip_vision_model(asdict(sizes) | others)
    if clip_vision.load_device.type == "cpu":  # ComfyUI stores float16 on the CPU, too, but computes in float32
        clip_vision.dtype = torch.float32
        clip_vision.model.float()
    missing, unknown = clip_vision.load_sd(weights.image_encoder)
    if missing or unknown:
        raise CheckpointError(
            f"{' + '.join(weights.sources)} does not fit CLIP's image encoder: {misfit(missing, unknown, {})}."
        )
    return clip_vision


def embed_picture(clip_vision: Any, image_BCHW: Tensor) -> Tensor:
    """Embeddings [B, D] of images in [-1, 1]; resized as in SVD's training, which `CLIPVisionEncode` does not do."""
    model_management.load_models_gpu([clip_vision.patcher])
    pixels_BCHW = clip_pixels(image_BCHW.to(clip_vision.load_device), clip_vision.image_size)

    def embed() -> Tensor:
        return clip_vision.model(pixel_values=pixels_BCHW, intermediate_output=-2)[2]

    with torch.no_grad():
        embedding_BD = checked(embed(), clip_vision.model, embed, {"the picture": pixels_BCHW})
    return embedding_BD.to(model_management.intermediate_device())
