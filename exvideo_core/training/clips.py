"""Encoded clips in training, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import torch

from .randomness import shuffled

Clip = TypeVar("Clip")
ClipOut = TypeVar("ClipOut", covariant=True)


class Source(Protocol[ClipOut]):
    """Clips to train on, and held-out clips for evaluation."""

    @property
    def num_held_out(self) -> int: ...

    def training(self, position: int, generator: torch.Generator) -> ClipOut:
        """The clip at a place of the endless order; what else is random about it comes from the generator."""

    def held_out(self, index: int) -> ClipOut:
        """A clip that is never trained on; always the same."""


class CachedClips(Generic[Clip]):
    """Clips that are encoded in files, in a new order each epoch.

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
        epoch, place = divmod(position, self.num_training)
        return self._read(shuffled(self.num_training, self._seed, epoch)[place])

    def held_out(self, index: int) -> Clip:
        """See `Source`."""
        return self._read(self.num_training + index)
