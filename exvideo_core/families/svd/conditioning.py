"""SVD's conditioning on a picture, with any encoders.

Shapes: H and W pixels, h and w latent cells of 8x8 pixels, D channels of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """Conditioning of the UNet."""

    image_latents: Tensor  # [1, 4, h, w], raw
    embedding: Tensor  # [1, D]
    ids: Tensor  # [1, 3]: fps - 1, motion bucket, noise augmentation


def condition(
    image_CHW: Tensor,
    encode: Callable[[Tensor], Tensor],
    embed: Callable[[Tensor], Tensor],
    *,
    fps: float,
    motion_bucket_id: float,
    noise_aug_strength: float,
    image_noise: Tensor,
) -> Conditioning:
    """Encode the conditioning picture.

    Args:
        image_CHW: [3, H, W] in [-1, 1].
        encode: autoencoder, [1, 3, H, W] to raw latents [1, 4, h, w].
        embed: image encoder, [1, 3, H, W] in [-1, 1] to [1, D].
        motion_bucket_id: amount of motion, 0 to 255; 127 is usual.
        noise_aug_strength: noise added to the picture before it is encoded, in units of [-1, 1].
        image_noise: [1, 3, H, W], unit variance.
    """
    image_BCHW = image_CHW[None]
    noisy_BCHW = image_BCHW + noise_aug_strength * image_noise.to(image_BCHW)
    return Conditioning(
        image_latents=encode(noisy_BCHW).float(),
        embedding=embed(image_BCHW).float(),
        ids=torch.tensor([[fps - 1, motion_bucket_id, noise_aug_strength]], dtype=torch.float32),
    )
