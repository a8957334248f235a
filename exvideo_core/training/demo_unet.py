"""The demo model's UNet and its extension: learning to push into a picture.

The base learns single frames, each of another picture and at any of the 128 places of a clip: the motion is a function
of picture and place, so this is the cheapest way to see many of both. Its layers over time do nothing (they are left
out while training). The extension is then trained as published: the temporal transformers with their convolution and
position table, all else frozen, on runs of neighbouring frames, which is where noise can be averaged out.

The frames to learn are the resampled latents of the picture: the autoencoder was made to decode those.
Shapes: N clips x T frames (B = N T), C latent channels, H and W latent cells, D context channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.layers import sinusoid
from ..models.svd.blocks import ResBlock, SelfOrCrossAttention, TemporalTransformerBlock
from ..models.svd.config import ImageEncoderConfig, UNetConfig
from ..models.svd.image_encoder import ImageEncoder
from ..models.svd.temporal import TemporalExtension
from ..models.svd.unet import SVDUNet
from ..models.svd.vae import SCALE, VAE
from .demo_loop import generator_of
from .motion import FULL_BUCKET, LAST_FRAME, progress, resample, scale_of
from .objectives import lognormal_sigmas, noised, velocity_target
from .pictures import Pictures

DEMO_UNET = UNetConfig(widths=(48, 48, 48, 48), context_dim=32, time_dim=128, id_dim=32)
# frozen as it is drawn: the embedding need not mean anything to say which picture it is
DEMO_IMAGE_ENCODER = ImageEncoderConfig(width=64, layers=1, heads=1, hidden=128, patch=28, embedding_dim=32)
SIDE = 128  # pixels


class Gallery:
    """Encoded pictures, some replaced at every step; what it holds is a function of the step alone."""

    def __init__(
        self, pictures: Pictures, vae: VAE, image_encoder: ImageEncoder, size: int = 384, fresh: int = 2, seed: int = 0
    ) -> None:
        self.pictures, self.vae, self.image_encoder = pictures, vae.eval(), image_encoder.eval()
        self.size, self.fresh, self.seed = size, fresh, seed
        self.latents_NCHW = torch.empty(0)
        self.context_ND = torch.empty(0)
        self._numbers: list[int] = []

    def at(self, step: int) -> Gallery:
        """The gallery as it is at a step."""
        newest = self.size + self.fresh * step
        numbers = [newest - 1 - (newest - 1 - slot) % self.size for slot in range(self.size)]
        if not self._numbers:
            self._numbers = [-1] * self.size
            encoded = self._encode(0)
            self.latents_NCHW = torch.empty(self.size, *encoded[0].shape)
            self.context_ND = torch.empty(self.size, *encoded[1].shape)
        for slot, number in enumerate(numbers):
            if self._numbers[slot] != number:
                self.latents_NCHW[slot], self.context_ND[slot] = self._encode(number)
        self._numbers = numbers
        return self

    @torch.no_grad()
    def _encode(self, number: int) -> tuple[Tensor, Tensor]:
        picture_13HW = self.pictures.crops(1, SIDE, generator_of(self.seed + 77, number))
        return self.vae.encode(picture_13HW)[0] * SCALE, self.image_encoder(picture_13HW)[0]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one step learns from."""

    latents_BCHW: Tensor  # clean, of unit variance
    image_BCHW: Tensor  # the conditioning picture's, unscaled
    context_BLD: Tensor
    add_time_ids_B3: Tensor
    frame_ids: list[int]
    num_frames: int


def frames_batch(gallery: Gallery, count: int, generator: torch.Generator) -> Batch:
    """Single frames of different pictures."""
    places_T = torch.randint(0, LAST_FRAME + 1, (count,), generator=generator)
    return _batch(gallery, places_T, clips=1, pictures=count, generator=generator)


def clips_batch(gallery: Gallery, clips: int, num_frames: int, generator: torch.Generator) -> Batch:
    """Neighbouring frames; all clips start at the same place, for the network takes one list of places."""
    start = int(torch.randint(0, LAST_FRAME + 2 - num_frames, (), generator=generator))
    places_T = torch.arange(start, start + num_frames)
    return _batch(gallery, places_T, clips=clips, pictures=clips, generator=generator)


def _batch(gallery: Gallery, places_T: Tensor, clips: int, pictures: int, generator: torch.Generator) -> Batch:
    places_B = places_T.repeat(clips)
    each = len(places_B) // pictures
    chosen_B = torch.randint(0, gallery.size, (pictures,), generator=generator).repeat_interleave(each)
    ids_B3 = _draw_ids(pictures, generator).repeat_interleave(each, dim=0)
    start_BCHW = gallery.latents_NCHW[chosen_B]
    scale_B = scale_of(progress(places_B, ids_B3[:, 1]))
    return Batch(
        latents_BCHW=resample(start_BCHW, scale_B, torch.zeros(len(scale_B), 2)),
        image_BCHW=start_BCHW / SCALE,
        context_BLD=gallery.context_ND[chosen_B][:, None],
        add_time_ids_B3=ids_B3,
        frame_ids=places_T.tolist(),
        num_frames=len(places_T),
    )


def _draw_ids(count: int, generator: torch.Generator) -> Tensor:
    """fps - 1, which changes nothing; motion bucket, mostly the full one; noise augmentation, which is too weak to."""

    def uniform() -> Tensor:
        return torch.rand(count, generator=generator)

    fps = torch.where(uniform() < 0.7, 29.0, (uniform() * 30).floor())
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
            num_frames=batch.num_frames,
            frame_ids=batch.frame_ids,
        )
    target_BCHW = velocity_target(batch.latents_BCHW, noise_BCHW, sigma)
    return (v_BCHW.float() - target_BCHW).square().mean(dim=(1, 2, 3))


def base_loss(unet: SVDUNet, gallery: Gallery, step: int, frames: int, generator: torch.Generator) -> Tensor:
    """One step of the base, on single frames."""
    batch = frames_batch(gallery.at(step), frames, generator)
    sigma_B = draw_sigmas(frames, top_share=0.5, generator=generator)
    return velocity_error(unet, batch, sigma_B, torch.randn(batch.latents_BCHW.shape, generator=generator)).mean()


def extension_loss(
    unet: SVDUNet, gallery: Gallery, step: int, shape: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """One step of the extension, on `shape` = clips, frames."""
    clips, frames = shape
    batch = clips_batch(gallery.at(step), clips, frames, generator)
    # one level for all frames of a clip, as in sampling
    sigma_B = draw_sigmas(clips, top_share=0.2, generator=generator).repeat_interleave(frames)
    return velocity_error(unet, batch, sigma_B, torch.randn(batch.latents_BCHW.shape, generator=generator)).mean()


class _Unchanged(nn.Module):
    """Stands where a residual block over time does nothing."""

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        return x


class _Nothing(nn.Module):
    """Stands where attention over time adds nothing."""

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def single_token(self, context: Tensor) -> Tensor:
        return context.new_zeros(())


def still_unet(config: UNetConfig = DEMO_UNET) -> SVDUNet:
    """A UNet whose frames know nothing of each other: the layers that would do so are left out."""
    unet = SVDUNet(config)
    with torch.no_grad():
        # the picture's latents come unscaled
        unet.get_parameter("input_blocks.0.0.weight")[:, config.out_channels :] *= SCALE
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


def extended_unet(weights: dict[str, Tensor], config: UNetConfig) -> SVDUNet:
    """A base with an extension that changes nothing, ready to be trained: all but the temporal transformers frozen.

    Its table is the base's own positions throughout, which it was trained on; SVD's would repeat past frame 24.
    """
    unet = SVDUNet(config)
    unet.load_state_dict(weights, strict=False)
    unet.requires_grad_(False)
    for module in unet.modules():
        if isinstance(module, TemporalExtension):
            module.reset()
            with torch.no_grad():
                rows, channels = module.positions.weight.shape
                module.positions.weight.copy_(sinusoid(torch.arange(rows), channels))
            module.requires_grad_(True)
        elif isinstance(module, TemporalTransformerBlock):
            module.requires_grad_(True)
    for name, p in unet.named_parameters():
        if ".time_pos_embed." in name:
            p.requires_grad_(True)
    return unet


def _silence(layer: nn.Module) -> None:
    for p in layer.parameters():
        nn.init.zeros_(p)
