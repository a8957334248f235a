"""The demo's autoencoder, whose latents are small pictures (see `small_pictures`) and not left to chance.

Encoder and decoder have nothing to agree on, so they learn apart: the one to make small pictures of a clip, the other
to make the clip of small pictures, also of somewhat wrong ones.

Shapes: B scenes, C channels, F frames, T latent frames, H W height and width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from exvideo_core.families.cogvideox.causal_conv import Past
from exvideo_core.families.cogvideox.config import VAEConfig
from exvideo_core.families.cogvideox.vae import SCALING_FACTOR, SPATIAL_FACTOR, CogVideoXVAE, temporal_chunks
from exvideo_core.training.procedural.shapes import PERIOD, SIDE, TRAINED, Scenes

from .small_pictures import small_pictures

DEMO_VAE = VAEConfig(widths=(16, 16, 48, 80), blocks_per_level=1)  # 32 does not divide them: 8 groups in each norm
_FRAMES = 17  # of a training clip: 5 latent frames, which are two temporal chunks, so that the second has a past
_CROP = 48  # pixels
_CHUNK = 2  # latent frames
_WORST_NOISE = 0.3  # added to the decoder's small pictures, of unit variance
_NO_VARIANCE = -12.0  # log variance that the encoder gives all its latents: they are certain


def newborn_vae() -> CogVideoXVAE:
    """An autoencoder as it starts: residual branches add nothing."""
    vae = CogVideoXVAE(DEMO_VAE)
    for name, p in vae.named_parameters():
        if name.endswith(("conv2.conv.weight", "conv2.conv.bias")):
            nn.init.zeros_(p)
    half = DEMO_VAE.latent_channels
    with torch.no_grad():
        vae.encoder.conv_out.conv.weight[half:] = 0
        vae.encoder.conv_out.conv.bias[half:] = _NO_VARIANCE
    return vae


def autoencoder_loss(vae: CogVideoXVAE, step: int, steps: int, generator: torch.Generator) -> Tensor:
    """One step, of the encoder or (twice as often) of the decoder; crops first, whole pictures in the last third."""
    side = _CROP if step < steps * 2 // 3 else SIDE
    clips = 2 if side == _CROP else 1
    if step % 3:
        return refining_loss(vae, clips, side, generator)
    return encoder_loss(vae, *draw_clips(clips, side, generator))


def refining_loss(vae: CogVideoXVAE, clips: int, side: int, generator: torch.Generator) -> Tensor:
    """One step of the decoder, on small pictures with more or less noise."""
    video_BCFHW, small_BCTHW = draw_clips(clips, side, generator)
    level = _WORST_NOISE * torch.rand(clips, 1, 1, 1, 1, generator=generator) ** 2
    noise = torch.randn(small_BCTHW.shape, generator=generator)
    return decoder_loss(vae, small_BCTHW + level * noise, video_BCFHW)


def draw_clips(clips: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Parts of `side` pixels of scenes, and their small pictures."""
    chosen = torch.randint(0, len(TRAINED), (clips,), generator=generator)
    scenes = Scenes.draw(tuple(TRAINED[index] for index in chosen), generator)
    start_B1 = torch.randint(0, PERIOD, (clips, 1), generator=generator)
    video = scenes.frames(start_B1 + torch.arange(_FRAMES))
    small = small_pictures(video)
    top, left = (int(torch.randint(0, (SIDE - side) // SPATIAL_FACTOR + 1, (), generator=generator)) for _ in range(2))
    size = side // SPATIAL_FACTOR
    return (
        video[
            ...,
            SPATIAL_FACTOR * top : SPATIAL_FACTOR * top + side,
            SPATIAL_FACTOR * left : SPATIAL_FACTOR * left + side,
        ],
        small[..., top : top + size, left : left + size],
    )


def encoder_loss(vae: CogVideoXVAE, video_BCFHW: Tensor, small_BCTHW: Tensor) -> Tensor:
    """Squared error of the small pictures."""
    past: Past = {}
    channels = vae.config.latent_channels
    with torch.autocast("cpu", torch.bfloat16, enabled=vae.training):
        parts = [
            vae.encoder(video_BCFHW[:, :, start:end], past)[:, :channels].float()
            for start, end in temporal_chunks(video_BCFHW.shape[2], 4 * _CHUNK)
        ]
    return (SCALING_FACTOR * torch.cat(parts, dim=2) - small_BCTHW).square().mean()


def decoder_loss(vae: CogVideoXVAE, small_BCTHW: Tensor, video_BCFHW: Tensor) -> Tensor:
    """Absolute and squared error of the frames."""
    past: Past = {}
    with torch.autocast("cpu", torch.bfloat16, enabled=vae.training):
        parts = [
            vae.decoder(small_BCTHW[:, :, start:end] / SCALING_FACTOR, past).float()
            for start, end in temporal_chunks(small_BCTHW.shape[2], _CHUNK)
        ]
    error = torch.cat(parts, dim=2) - video_BCFHW
    return error.abs().mean() + 2 * error.square().mean()
