"""A camera that pushes into drawn pictures: clips for the demo model, and for training without videos.

Shapes: N pictures, T frames, C channels, H and W pixels or latent cells, D channels of an embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...training.procedural.pictures import Pictures
from ...training.procedural.push_in import FULL_BUCKET, FULL_RATE, LAST_FRAME, progress, push_in
from ...training.randomness import generator_of, uniform
from .clips import SVDClip
from .image_encoder import ImageEncoder
from .vae import SCALING_FACTOR, VAE

SIDE = 128  # pixels, of the pictures
SLOWEST = 6  # frames a second, of clips that move in larger steps


class Gallery:
    """Encoded pictures; the contents depend on the arguments alone."""

    @torch.no_grad()
    def __init__(self, pictures: Pictures, vae: VAE, image_encoder: ImageEncoder, size: int, seed: int = 0) -> None:
        self.pictures, self.vae, self.image_encoder = pictures, vae.eval(), image_encoder.eval()
        self.size, self.seed = size, seed
        encoded = [self.encode(number) for number in range(size)]
        self.latents_NCHW, self.context_ND = (torch.stack(parts) for parts in zip(*encoded, strict=True))

    def encode(self, number: int) -> tuple[Tensor, Tensor]:
        """Latents of a picture, of unit variance, and its embedding."""
        picture_13HW = self.picture(number)[None]
        return self.vae.encode(picture_13HW)[0] * SCALING_FACTOR, self.image_encoder(picture_13HW)[0]

    def picture(self, number: int) -> Tensor:
        """Pixels of a picture, [3, 128, 128] in [-1, 1]."""
        return self.pictures.crops(1, SIDE, generator_of(self.seed + 77, number))[0]


class PushIns:
    """A camera that pushes into a picture; see `training.sources.Source`.

    Later latent frames are the picture's latents, resampled: the demo's decoder is trained to decode those.
    """

    def __init__(self, gallery: Gallery, num_frames: int, held_out: int) -> None:
        self.gallery, self.num_frames, self.num_held_out = gallery, num_frames, held_out

    def training(self, _position: int, generator: torch.Generator) -> SVDClip:
        """A random picture at a random speed within the full motion."""
        slot = int(torch.randint(0, self.gallery.size - self.num_held_out, (), generator=generator))
        fps = float(FULL_RATE)
        if uniform(generator) < 0.3:
            fps = float(round(SLOWEST * (FULL_RATE / SLOWEST) ** uniform(generator)))
        bucket = min(FULL_BUCKET, math.floor(FULL_BUCKET * fps * LAST_FRAME / (FULL_RATE * (self.num_frames - 1))))
        if uniform(generator) < 0.25:
            bucket = math.floor(uniform(generator) * (bucket + 1))
        return self._clip(slot, fps, bucket)

    def held_out(self, index: int) -> SVDClip:
        """A held-out picture at full speed."""
        return self._clip(self.gallery.size - self.num_held_out + index, FULL_RATE, FULL_BUCKET)

    def _clip(self, slot: int, fps: float, bucket: float) -> SVDClip:
        places_T = progress(torch.arange(self.num_frames), bucket, fps)
        return SVDClip(
            latents_TCHW=push_in(self.gallery.latents_NCHW[slot], places_T) / SCALING_FACTOR,
            picture_3HW=self.gallery.picture(slot),
            context_1D=self.gallery.context_ND[slot][None],
            fps=fps,
            motion_bucket_id=bucket,
        )
