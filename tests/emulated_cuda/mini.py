"""Networks of few and narrow layers, in which every kind of layer is: for what does not depend on sizes."""

from __future__ import annotations

from typing import Any

from exvideo_core import CogVideoXPipeline, SVDPipeline
from exvideo_core.families.cogvideox.config import TransformerConfig, VAEConfig as CogVAEConfig
from exvideo_core.families.cogvideox.text_encoder import TextEncoderConfig
from exvideo_core.families.svd.config import ImageEncoderConfig, UNetConfig, VAEConfig

from .device import EmulatedCuda
from .pipelines import loaded_cogvideox, loaded_svd

# heads have 64 channels, as published; widths are multiples of 16 for products in fp8, and of 32 for group norms
UNET = UNetConfig(
    widths=(64, 128),
    blocks_per_level=1,
    attention_levels=(1,),
    context_dim=32,
    time_dim=64,
    id_dim=32,
    extension_frames=16,
)
VAE = VAEConfig(widths=(32, 32, 64, 64), blocks_per_level=1)
IMAGE_ENCODER = ImageEncoderConfig(
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    patch_size=16,
    image_size=32,
    projection_dim=UNET.context_dim,
)
TRANSFORMER = TransformerConfig(width=128, layers=2, hidden=256, time_dim=64, text_dim=32)
COG_VAE = CogVAEConfig(widths=(32, 32, 64, 64), blocks_per_level=1)
TEXT_ENCODER = TextEncoderConfig(d_model=TRANSFORMER.text_dim, num_layers=1, num_heads=2, d_kv=16, d_ff=64)


def mini_svd(cuda: EmulatedCuda, **options: Any) -> SVDPipeline:
    """SVD with an extension of 16 frames."""
    return loaded_svd(cuda, unet=UNET, vae=VAE, image_encoder=IMAGE_ENCODER, **options)


def mini_cogvideox(cuda: EmulatedCuda, **options: Any) -> CogVideoXPipeline:
    """CogVideoX; `text_encoder="t5"` loads one."""
    sizes = {"transformer": TRANSFORMER, "vae": COG_VAE, "text_sizes": TEXT_ENCODER}
    return loaded_cogvideox(cuda, **sizes, **options)
