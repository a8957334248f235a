"""Moving pictures that are drawn as they are needed: what the demo models are about, and enough to try training.

Shapes: N pictures, T frames (of latents), C channels, H and W pixels or latent cells, D channels of an embedding.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from ...families.cogvideox.text_encoder import TextEncoder
from ...families.cogvideox.vae import SCALING_FACTOR as COGVIDEOX_SCALING_FACTOR
from ...families.cogvideox.vae import TEMPORAL_FACTOR
from ...families.svd.image_encoder import ImageEncoder
from ...families.svd.vae import SCALING_FACTOR, VAE
from ..clips import CogVideoXClip, SVDClip
from ..randomness import chance, generator_of
from . import shapes
from .pictures import Pictures
from .push_in import FULL_BUCKET, FULL_RATE, LAST_FRAME, progress, push_in

SIDE = 128  # pixels, of the pictures
SLOWEST = 6  # frames a second, of clips that go in larger steps


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
        picture_13HW = self.picture(number)[None]
        return self.vae.encode(picture_13HW)[0] * SCALING_FACTOR, self.image_encoder(picture_13HW)[0]

    def picture(self, number: int) -> Tensor:
        """The pixels of a picture, [3, 128, 128] in [-1, 1]: those that a slot begins with have the slot's number."""
        return self.pictures.crops(1, SIDE, generator_of(self.seed + 77, number))[0]


class PushIns:
    """A camera that goes into a picture; `clips.Source` of SVD.

    The latents of later frames are those of the picture, resampled, which is what the demo's decoder was made for.
    """

    def __init__(self, gallery: Gallery, num_frames: int, held_out: int) -> None:
        self.gallery, self.num_frames, self.num_held_out = gallery.at(0), num_frames, held_out

    def training(self, _position: int, generator: torch.Generator) -> SVDClip:
        """Any picture, at any speed that stays within the motion."""
        slot = int(torch.randint(0, self.gallery.size - self.num_held_out, (), generator=generator))
        fps, bucket = float(FULL_RATE), float(FULL_BUCKET)
        if chance(0.3, generator):
            fps = float(round(SLOWEST * (FULL_RATE / SLOWEST) ** float(torch.rand((), generator=generator))))
        bucket = min(bucket, math.floor(bucket * fps * LAST_FRAME / (FULL_RATE * (self.num_frames - 1))))
        if chance(0.25, generator):
            bucket = math.floor(float(torch.rand((), generator=generator)) * (bucket + 1))
        return self._clip(slot, fps, bucket)

    def held_out(self, index: int) -> SVDClip:
        """At full speed."""
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


class MovingShapes:
    """Flat shapes that move on flat grounds, and sentences that say so; `clips.Source` of CogVideoX.

    Their latents are the small pictures that the demo's encoder makes; combinations of words that are never trained
    are held out.
    """

    def __init__(self, text_encoder: TextEncoder, num_frames: int, held_out: int) -> None:
        self.text_encoder, self.num_held_out = text_encoder, held_out
        self.num_latent_frames = (num_frames - 1) // TEMPORAL_FACTOR + 1
        self._held_out = [words for words in shapes.all_words() if words.is_held_out]
        self._embedded = cache(self._embed)

    def training(self, _position: int, generator: torch.Generator) -> CogVideoXClip:
        """Any trained combination; the demo's own sentence half of the time."""
        words = shapes.TRAINED[int(torch.randint(0, len(shapes.TRAINED), (), generator=generator))]
        kind = int(torch.randint(0, len(shapes.SENTENCES), (), generator=generator))
        sentence = shapes.SENTENCES[0 if chance(0.5, generator) else kind]
        return self._clip(shapes.Scenes.draw((words,), generator), words.prompt(sentence))

    def held_out(self, index: int) -> CogVideoXClip:
        """Its size and place at their means."""
        words = self._held_out[index]
        return self._clip(shapes.Scenes.typical((words,)), words.prompt())

    def _clip(self, scene: shapes.Scenes, caption: str) -> CogVideoXClip:
        newest_1T = TEMPORAL_FACTOR * torch.arange(self.num_latent_frames)[None]
        latents = shapes.cells(scene.frames(newest_1T), scene.frames((newest_1T - 2).clamp(min=0)))[0]
        return CogVideoXClip(latents_CTHW=latents / COGVIDEOX_SCALING_FACTOR, context_LD=self._embedded(caption), fps=8)

    @torch.no_grad()
    def _embed(self, caption: str) -> Tensor:
        return self.text_encoder([caption])[0]
