"""Narrow SVD networks with random weights that depend on nothing but their names, shapes and a seed.

So the same networks can be built for a test, for a recording of the references, and years later. The weights look
trained: norms scale and shift, learned mixes lean to either side, the extension's convolution is near the identity.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from exvideo_core import SVDPipeline
from exvideo_core.families.svd.config import ImageEncoderConfig, UNetConfig, VAEConfig
from exvideo_core.families.svd.image_encoder import ImageEncoder
from exvideo_core.families.svd.save import save_extension, save_svd
from exvideo_core.families.svd.temporal import TemporalExtension
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.families.svd.vae import VAE


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of all three networks."""

    unet: UNetConfig
    vae: VAEConfig
    image_encoder: ImageEncoderConfig


# The published layout at a tenth (UNet) and a quarter (VAE) of its widths: all norms keep their 32 groups.
NARROW = Sizes(
    unet=UNetConfig(widths=(32, 64, 128, 128), context_dim=48, time_dim=128),
    vae=VAEConfig(widths=(32, 64, 128, 128)),
    image_encoder=ImageEncoderConfig(
        hidden_size=160, num_hidden_layers=2, num_attention_heads=2, intermediate_size=320, projection_dim=48
    ),
)
# The least that has every part, and the published layout's 16 temporal transformers.
TINY = Sizes(
    unet=UNetConfig(widths=(8, 8, 16, 16), context_dim=8, time_dim=16, id_dim=8),
    vae=VAEConfig(widths=(8, 8, 8, 8), blocks_per_level=1),
    image_encoder=ImageEncoderConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
        patch_size=16,
        image_size=32,
        projection_dim=8,
    ),
)


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """A float32 tensor for each name, the same whatever other names there are."""
    return {name: _weight(name, shape, seed) for name, shape in shapes.items()}


def _weight(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed))
    if name.endswith((".mix_factor", "class_embedding")):
        return noise
    if len(shape) == 1:
        return 1 + 0.2 * noise if name.endswith(".weight") else 0.1 * noise
    if "position" in name:  # tables, of the size of a sinusoid
        return 0.7 * noise
    noise = noise / math.sqrt(math.prod(shape[1:]))
    return nn.init.dirac_(torch.empty(shape)) + 0.3 * noise if name.endswith(".mix.weight") else noise


def fill(module: nn.Module, seed: int = 0) -> None:
    """Give a network random weights in place."""
    shapes = {name: tuple(weight.shape) for name, weight in module.named_parameters()}
    module.load_state_dict(random_weights(shapes, seed), strict=False)


def reset_extension(unet: SVDUNet) -> None:
    """Initialise the extension as training starts it: the network computes what the base does."""
    for module in unet.modules():
        if isinstance(module, TemporalExtension):
            module.reset()


def build_unet(sizes: Sizes = TINY, extension_frames: int | None = None, seed: int = 0) -> SVDUNet:
    """An SVD UNet, with a trained-looking extension for so many frames."""
    unet = SVDUNet(replace(sizes.unet, extension_frames=extension_frames))
    fill(unet, seed)
    return unet.eval()


def build_vae(sizes: Sizes = TINY, seed: int = 0) -> VAE:
    """SVD's autoencoder."""
    vae = VAE(sizes.vae)
    fill(vae, seed)
    return vae.eval()


def build_image_encoder(sizes: Sizes = TINY, seed: int = 0) -> ImageEncoder:
    """CLIP's vision tower."""
    image_encoder = ImageEncoder(sizes.image_encoder)
    fill(image_encoder.clip, seed)
    return image_encoder.eval()


def build_pipeline(sizes: Sizes = TINY, extension_frames: int | None = None, seed: int = 0) -> SVDPipeline:
    """All three."""
    return SVDPipeline(
        build_unet(sizes, extension_frames, seed), build_vae(sizes, seed), build_image_encoder(sizes, seed)
    )


def save_files(folder: Path, sizes: Sizes = TINY, extension_frames: int = 8, seed: int = 0) -> tuple[Path, Path]:
    """The files people have: svd_xt.safetensors, and an extension; the weights are those of the builders here."""
    checkpoint, extension = folder / "svd_xt.safetensors", folder / "extension.safetensors"
    parts = (build_unet(sizes, seed=seed), build_vae(sizes, seed), build_image_encoder(sizes, seed).clip)
    save_svd(checkpoint, *(part.state_dict() for part in parts))
    save_extension(extension, build_unet(sizes, extension_frames, seed).state_dict())
    return checkpoint, extension


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Unit noise."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
