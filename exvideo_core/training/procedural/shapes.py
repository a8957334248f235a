"""Flat shapes that move on a flat ground, and prompts that describe them.

Shapes: B scenes, F frames, H W height and width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product, starmap

import torch
from torch import Tensor

SIDE = 96  # pixels
PERIOD = 48  # frames after which every motion starts again: 12 latent frames
_REACH = 22.0  # pixels from the middle

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 230), "yellow": (240, 215, 50)}
GROUNDS = {"black": (16, 16, 16), "white": (240, 240, 240), "gray": (128, 128, 128), "purple": (125, 45, 150)}
SHAPES = ("circle", "square", "triangle")
MOTIONS = ("swings", "floats", "bounces", "slides", "circles left", "circles right")

# the first is the demo's; the others keep the text encoder from memorising one sentence
SENTENCES = (
    "a {colour} {shape} {motion} on {ground}",
    "the {colour} {shape} {motion} on a {ground} background",
    "{colour} {shape} that {motion}, {ground} background",
    "on {ground}, a {colour} {shape} {motion}",
)


@dataclass(frozen=True)
class Words:
    """The four attributes of a scene that a prompt names, as indices."""

    colour: int
    shape: int
    motion: int
    ground: int

    @property
    def is_held_out(self) -> bool:
        """Whether this combination is never trained: a tenth of them."""
        return (self.colour + 2 * self.shape + 3 * self.motion + 5 * self.ground) % 10 == 3

    def prompt(self, sentence: str = SENTENCES[0]) -> str:
        """The combination as a prompt."""
        return sentence.format(
            colour=list(COLOURS)[self.colour],
            shape=SHAPES[self.shape],
            motion=MOTIONS[self.motion],
            ground=list(GROUNDS)[self.ground],
        )


# every combination
ALL_WORDS = tuple(starmap(Words, product(*(range(len(kinds)) for kinds in (COLOURS, SHAPES, MOTIONS, GROUNDS)))))
TRAINED = tuple(words for words in ALL_WORDS if not words.is_held_out)
HELD_OUT = tuple(words for words in ALL_WORDS if words.is_held_out)


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Scenes of given words; size and place are random."""

    words: tuple[Words, ...]
    radius_B: Tensor  # pixels
    offset_B2: Tensor  # pixels, of the middle of the motion

    @classmethod
    def draw(cls, words: tuple[Words, ...], generator: torch.Generator) -> Scenes:
        """Size and place a little different every time."""
        return cls(
            words=words,
            radius_B=20 + 4 * torch.rand(len(words), generator=generator),
            offset_B2=4 * torch.rand(len(words), 2, generator=generator) - 2,
        )

    @classmethod
    def typical(cls, words: tuple[Words, ...]) -> Scenes:
        """Scenes of mean size and place."""
        return cls(words=words, radius_B=torch.full((len(words),), 22.0), offset_B2=torch.zeros(len(words), 2))

    def frames(self, numbers_BF: Tensor) -> Tensor:
        """Frames of these numbers, [B, 3, F, 96, 96] in [-1, 1]."""
        mask_BFHW = self.masks(numbers_BF)[:, None]
        colour_B3 = _rgb(COLOURS)[[w.colour for w in self.words]]
        ground_B3 = _rgb(GROUNDS)[[w.ground for w in self.words]]
        return torch.lerp(ground_B3.view(-1, 3, 1, 1, 1), colour_B3.view(-1, 3, 1, 1, 1), mask_BFHW)

    def masks(self, numbers_BF: Tensor) -> Tensor:
        """Where the shape is, [B, F, 96, 96], with soft edges one pixel wide."""
        paths = [motion_path(w.motion, numbers) for w, numbers in zip(self.words, numbers_BF, strict=True)]
        centre_BF2 = SIDE / 2 + self.offset_B2[:, None] + torch.stack(paths)
        axis = torch.arange(SIDE) + 0.5
        x_BFHW = axis - centre_BF2[..., 0, None, None]
        y_BFHW = axis[:, None] - centre_BF2[..., 1, None, None]
        distances = [
            _distance(w.shape, x, y, radius)
            for w, x, y, radius in zip(self.words, x_BFHW, y_BFHW, self.radius_B, strict=True)
        ]
        return (0.5 - torch.stack(distances)).clamp(0, 1)


def _rgb(table: Mapping[str, tuple[int, int, int]]) -> Tensor:
    """The colours of a table, in [-1, 1]."""
    return torch.tensor(list(table.values())) / 127.5 - 1


def motion_path(motion: int, numbers_F: Tensor) -> Tensor:
    """Places (x, y) of a motion at these frames, [F, 2] in pixels from its middle."""
    phase = 2 * math.pi * numbers_F / PERIOD
    still, cos, sin = torch.zeros_like(phase), torch.cos(phase), torch.sin(phase)
    x, y = {
        "swings": (-cos, still),
        "floats": (still, -cos),
        "bounces": (still, 1 - 2 * torch.sin(phase / 2).abs()),
        "slides": (-0.8 * cos, -0.8 * cos),
        "circles left": (-sin, -cos),
        "circles right": (sin, -cos),
    }[MOTIONS[motion]]
    return _REACH * torch.stack([x, y], dim=-1)


def _distance(shape: int, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance in pixels from the outline, inside negative."""
    if SHAPES[shape] == "circle":
        return torch.sqrt(x**2 + y**2) - radius
    if SHAPES[shape] == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.85 * radius
    # equilateral, on its side, its middle in the middle of its height
    sides = (math.sqrt(3) * x.abs() - (y + radius)) / 2  # from the apex at (0, -radius)
    return torch.maximum(sides, y + radius - 2 * radius)
