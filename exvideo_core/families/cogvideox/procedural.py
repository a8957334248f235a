"""Flat shapes that move, with prompts that say so: clips for the demo model, and for training without videos.

Shapes: B scenes, T latent frames, C channels, H and W pixels or latent cells, L tokens, D channels of an embedding.
"""

from __future__ import annotations

from functools import cache, partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...training.procedural import shapes
from ...training.randomness import uniform
from .clips import CogVideoXClip, embedded
from .geometry import GEOMETRY
from .text_encoder import TextEncoder
from .vae import SCALING_FACTOR


class MovingShapes:
    """Flat shapes that move on flat grounds, and their prompts; see `training.sources.Source`.

    Latents are the small pictures that the demo's encoder makes. Held out are combinations that are never trained.
    """

    def __init__(self, text_encoder: TextEncoder, num_frames: int, held_out: int) -> None:
        self.num_held_out = held_out
        self.num_latent_frames = GEOMETRY.latent_frames(num_frames)
        self._embedded = cache(partial(embedded, text_encoder))

    def training(self, _position: int, generator: torch.Generator) -> CogVideoXClip:
        """A random trained combination; half of the time with the demo's own sentence."""
        words = shapes.TRAINED[int(torch.randint(0, len(shapes.TRAINED), (), generator=generator))]
        kind = int(torch.randint(0, len(shapes.SENTENCES), (), generator=generator))
        sentence = shapes.SENTENCES[0 if uniform(generator) < 0.5 else kind]
        return self._clip(shapes.Scenes.draw((words,), generator), words.prompt(sentence))

    def held_out(self, index: int) -> CogVideoXClip:
        """A held-out combination of mean size and place."""
        words = shapes.HELD_OUT[index]
        return self._clip(shapes.Scenes.typical((words,)), words.prompt())

    def _clip(self, scene: shapes.Scenes, caption: str) -> CogVideoXClip:
        newest_1T = GEOMETRY.temporal_factor * torch.arange(self.num_latent_frames)[None]
        latents = cells(scene.frames(newest_1T), scene.frames((newest_1T - 2).clamp(min=0)))[0]
        return CogVideoXClip(latents_CTHW=latents / SCALING_FACTOR, context_LD=self._embedded(caption), fps=8)


def cells(newest_BCTHW: Tensor, before_BCTHW: Tensor) -> Tensor:
    """Latents of the demo, scaled: small pictures, from each latent frame's newest frame and the one two frames before.

    The colours at a quarter of the size, four pixels a cell (12 channels), and how much brighter they became in two
    frames (4 channels).
    """
    newest, before = (F.avg_pool3d(frames, (1, 4, 4)) for frames in (newest_BCTHW, before_BCTHW))
    change = (newest - before).mean(dim=1, keepdim=True)
    channels = torch.cat([1.25 * newest, 2.0 * change], dim=1)
    return rearrange(channels, "B C T (H P) (W Q) -> B (C P Q) T H W", P=2, Q=2)
