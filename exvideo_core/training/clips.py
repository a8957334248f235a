"""Encoded clips, as training takes them, and in which order.

Shapes: T frames (of latents), C channels, H and W latent cells, L tokens, D channels of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from .randomness import shuffled


@dataclass(frozen=True, kw_only=True)
class SVDClip:
    """A clip and the picture it begins with."""

    latents_TCHW: Tensor  # raw
    picture_3HW: Tensor  # of the first frame, [-1, 1]
    context_1D: Tensor  # of the picture
    fps: float
    motion_bucket_id: float


@dataclass(frozen=True, kw_only=True)
class CogVideoXClip:
    """A clip and the sentence that says what it shows."""

    latents_CTHW: Tensor  # raw
    context_LD: Tensor  # of the sentence
    fps: float


Clip = TypeVar("Clip")
ClipOut = TypeVar("ClipOut", covariant=True)


class Source(Protocol[ClipOut]):
    """Clips to train on, and some that are only looked at."""

    @property
    def num_held_out(self) -> int: ...

    def training(self, position: int, generator: torch.Generator) -> ClipOut:
        """The clip at a place of the endless order; what else is random about it comes from the generator."""

    def held_out(self, index: int) -> ClipOut:
        """One of those that are never trained on; always the same."""


class CachedClips(Generic[Clip]):
    """Clips that lie encoded in files, in a new order each time around.

    Args:
        count: clips there are.
        held_out: how many of them, the last, are not trained on.
        read: the clip of a number.
        seed: of the order.
    """

    def __init__(self, count: int, held_out: int, read: Callable[[int], Clip], seed: int) -> None:
        self.num_training, self.num_held_out = count - held_out, held_out
        self._read, self._seed = read, seed

    def training(self, position: int, _generator: torch.Generator) -> Clip:
        """See `Source`."""
        around, place = divmod(position, self.num_training)
        return self._read(shuffled(self.num_training, self._seed, around)[place])

    def held_out(self, index: int) -> Clip:
        """See `Source`."""
        return self._read(self.num_training + index)
