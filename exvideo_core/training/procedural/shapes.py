"""Flat shapes that move on a flat ground, and prompts that describe them.

Shapes: B scenes, F frames, H W height and width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

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


def all_words() -> Iterator[Words]:
    """Every combination."""
    for colour in range(len(COLOURS)):
        for shape in range(len(SHAPES)):
            for motion in range(len(MOTIONS)):
                for ground in range(len(GROUNDS)):
                    yield Words(colour, shape, motion, ground)


TRAINED = tuple(words for words in all_words() if not words.is_held_out)


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
        colour, ground = (
            torch.tensor([list(table.values())[index] for index in chosen], dtype=torch.float32) / 127.5 - 1
            for table, chosen in (
                (COLOURS, [w.colour for w in self.words]),
                (GROUNDS, [w.ground for w in self.words]),
            )
        )
        return torch.lerp(ground.view(-1, 3, 1, 1, 1), colour.view(-1, 3, 1, 1, 1), mask_BFHW)

    def masks(self, numbers_BF: Tensor) -> Tensor:
        """Where the shape is, [B, F, 96, 96], with soft edges one pixel wide."""
        centre_BF2 = SIDE / 2 + self.offset_B2[:, None] + self.path(numbers_BF)
        axis = torch.arange(SIDE) + 0.5
        x_BFHW = axis - centre_BF2[..., 0, None, None]
        y_BFHW = axis[:, None] - centre_BF2[..., 1, None, None]
        distances = [
            _DISTANCES[w.shape](x, y, radius)
            for w, x, y, radius in zip(self.words, x_BFHW, y_BFHW, self.radius_B, strict=True)
        ]
        return (0.5 - torch.stack(distances)).clamp(0, 1)

    def path(self, numbers_BF: Tensor) -> Tensor:
        """Where the shape is relative to the middle of its motion, [B, F, 2] in pixels."""
        return torch.stack([motion_path(w.motion, numbers) for w, numbers in zip(self.words, numbers_BF, strict=True)])


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


# signed distances in pixels from the outline, inside negative
def _circle(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return torch.sqrt(x**2 + y**2) - radius


def _square(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.85 * radius


def _triangle(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Equilateral, on its side, its middle in the middle of its height."""
    height = 2 * radius
    slope = math.sqrt(3)
    sides = (slope * x.abs() - (y + radius)) / 2  # from the apex at (0, -radius)
    return torch.maximum(sides, y + radius - height)


_DISTANCES = (_circle, _square, _triangle)
