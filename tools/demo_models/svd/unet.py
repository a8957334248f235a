"""The demo model's UNet: learning to push into a picture.

It learns single frames, each of another picture and at any of the first 25 places of a clip: the motion is a function
of picture, place and speed, so this is the cheapest way to see many of all three. Its layers over time do nothing (they
are left out while training). Like SVD it knows clips of 25 frames, at any speed up to the whole motion in them, and
nothing of later places: those are the extension's.

The frames to learn are the resampled latents of the picture: the autoencoder was made to decode those.
Shapes: B frames, C latent channels, H and W latent cells, D context channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from exvideo_core.families.svd.blocks import ResBlock
from exvideo_core.families.svd.config import ImageEncoderConfig, UNetConfig
from exvideo_core.families.svd.objective import lognormal_sigmas, noised
from exvideo_core.families.svd.procedural import SLOWEST
from exvideo_core.families.svd.transformer import SelfOrCrossAttention, TemporalTransformerBlock
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.families.svd.vae import SCALING_FACTOR
from exvideo_core.training.procedural.push_in import FULL_BUCKET, FULL_RATE, progress, resample, scale_of

from .gallery import FreshGallery

DEMO_UNET = UNetConfig(widths=(48, 48, 48, 48), context_dim=32, time_dim=128, id_dim=32)
# frozen as it is drawn: the embedding need not mean anything to say which picture it is
DEMO_IMAGE_ENCODER = ImageEncoderConfig(
    hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=128, patch_size=28, projection_dim=32
)
BASE_FRAMES = 25  # places of a clip that the base is taught, as many as SVD's; at the slowest rate, all of the motion


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Inputs of one step."""

    latents_BCHW: Tensor  # clean, of unit variance
    image_BCHW: Tensor  # the conditioning picture's, unscaled
    context_BLD: Tensor
    add_time_ids_B3: Tensor
    frame_ids: list[int]


def frames_batch(gallery: FreshGallery, count: int, generator: torch.Generator) -> Batch:
    """Single frames of different pictures, at the places that the base knows."""
    places_B = torch.randint(0, BASE_FRAMES, (count,), generator=generator)
    chosen_B = torch.randint(0, gallery.size, (count,), generator=generator)
    ids_B3 = _draw_ids(count, generator)
    start_BCHW = gallery.latents_NCHW[chosen_B]
    scale_B = scale_of(progress(places_B, ids_B3[:, 1], ids_B3[:, 0] + 1))
    return Batch(
        latents_BCHW=resample(start_BCHW, scale_B, torch.zeros(len(scale_B), 2)),
        image_BCHW=start_BCHW / SCALING_FACTOR,
        context_BLD=gallery.context_ND[chosen_B][:, None],
        add_time_ids_B3=ids_B3,
        frame_ids=places_B.tolist(),
    )


def _draw_ids(count: int, generator: torch.Generator) -> Tensor:
    """fps - 1, so that 25 frames see the whole motion; motion bucket, mostly the full one; noise augmentation, no more
    than a number here."""

    def uniform() -> Tensor:
        return torch.rand(count, generator=generator)

    slow = SLOWEST * (FULL_RATE / SLOWEST) ** uniform()  # evenly in the logarithm
    fps = torch.where(uniform() < 0.25, float(FULL_RATE), slow.round()) - 1
    bucket = torch.where(uniform() < 0.75, float(FULL_BUCKET), (uniform() * (FULL_BUCKET + 1)).floor())
    return torch.stack([fps, bucket, torch.where(uniform() < 0.5, 0.02, 0.0)], dim=1)


def draw_sigmas(count: int, top_share: float, generator: torch.Generator) -> Tensor:
    """Part from the levels where only the picture tells what to show, part from those where grain is decided."""
    top = torch.exp(math.log(4) + (math.log(700) - math.log(4)) * torch.rand(count, generator=generator))
    middle = lognormal_sigmas(count, mean=0.0, std=1.4, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < top_share, top, middle)


def velocity_error(unet: SVDUNet, batch: Batch, sigma_B: Tensor, noise_BCHW: Tensor) -> Tensor:
    """Mean squared error of v, for each frame: [B]. All levels count alike, unlike in the published script."""
    sigma = sigma_B.view(-1, 1, 1, 1)
    scaled_BCHW, _ = noised(batch.latents_BCHW, noise_BCHW, sigma)
    with torch.autocast("cpu", torch.bfloat16, enabled=unet.training):
        v_BCHW = unet(
            torch.cat([scaled_BCHW, batch.image_BCHW], dim=1),
            0.25 * sigma_B.log(),
            batch.context_BLD,
            batch.add_time_ids_B3,
            num_frames=len(batch.frame_ids),
            frame_ids=batch.frame_ids,
        )
    target_BCHW = velocity_target(batch.latents_BCHW, noise_BCHW, sigma)
    return (v_BCHW.float() - target_BCHW).square().mean(dim=(1, 2, 3))


def velocity_target(latents: Tensor, noise: Tensor, sigma: Tensor, target_scale: float = 1.0) -> Tensor:
    """The v whose denoised latents are `target_scale` times the given ones."""
    total = torch.sqrt(sigma**2 + 1)
    return noise / total - (sigma / total) * latents - (target_scale - 1) * (total / sigma) * latents


def base_loss(unet: SVDUNet, gallery: FreshGallery, step: int, frames: int, generator: torch.Generator) -> Tensor:
    """One step of the base, on single frames."""
    batch = frames_batch(gallery.at(step), frames, generator)
    sigma_B = draw_sigmas(frames, top_share=0.5, generator=generator)
    return velocity_error(unet, batch, sigma_B, torch.randn(batch.latents_BCHW.shape, generator=generator)).mean()


class _Unchanged(nn.Module):
    """Stands where a residual block over time does nothing."""

    def forward(self, x: Tensor, *_: object) -> Tensor:
        return x


class _Nothing(nn.Module):
    """Stands where attention over time adds nothing."""

    def bind(self, like: Tensor) -> tuple[Callable[[Tensor], Tensor], nn.Module]:
        return lambda _tokens: like.new_zeros(()), self

    def effective_weights(self, _x: Tensor) -> None:
        return None

    def forward(self, zero: Tensor) -> Tensor:
        return zero

    def single_token(self, context: Tensor) -> Tensor:
        return context.new_zeros(1, 1, 1)


def still_unet(config: UNetConfig = DEMO_UNET) -> SVDUNet:
    """A UNet whose frames know nothing of each other: the layers that would do so are left out."""
    unet = SVDUNet(config)
    with torch.no_grad():
        # the picture's latents come unscaled
        unet.get_parameter("input_blocks.0.0.weight")[:, config.out_channels :] *= SCALING_FACTOR
    for module in unet.modules():
        if isinstance(module, ResBlock):
            module.time_stack = _Unchanged()  # type: ignore[assignment]  # stands in for it
            module.time_mixer.requires_grad_(False)
        elif isinstance(module, TemporalTransformerBlock):
            module.attn1, module.attn2 = _Nothing(), _Nothing()  # type: ignore[assignment]  # likewise
            module.norm1.requires_grad_(False)
            module.norm2.requires_grad_(False)
    return unet


def whole_unet(weights: dict[str, Tensor], config: UNetConfig = DEMO_UNET) -> SVDUNet:
    """The complete UNet with a still one's weights and the result of a still one: what was left out adds zero."""
    unet = SVDUNet(config)
    for module in unet.modules():
        if isinstance(module, ResBlock):
            _silence(module.time_stack.out_layers[3])
        elif isinstance(module, TemporalTransformerBlock):
            for attention in (module.attn1, module.attn2):
                assert isinstance(attention, SelfOrCrossAttention)
                _silence(attention.to_out[0])
    unet.load_state_dict(weights, strict=False)
    return unet


def _silence(layer: nn.Module) -> None:
    for p in layer.parameters():
        nn.init.zeros_(p)
