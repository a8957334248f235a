"""What can be trained: a network with its trainable part, its clips and its loss, behind one interface."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn


class Target(Protocol):
    """One model in training. Clips are told apart by position: their number in the run, whatever the ranks."""

    @property
    def units(self) -> Mapping[str, nn.Module]:
        """The modules that are trained; see `parts.freeze`."""

    @property
    def num_frozen(self) -> int:
        """Numbers in the frozen part of the network."""

    @property
    def base_frames(self) -> int:
        """Frames (of latents) that the base was trained on."""

    @property
    def num_held_out(self) -> int:
        """Items of the held-out grid: clips times noise levels."""

    def loss(self, position: int, step: int) -> Tensor:
        """Of one clip; a function of its arguments and the weights alone."""

    def held_out_errors(self, item: int) -> Tensor:
        """Squared error of v of each frame (of latents), [T]; likewise."""

    def export(self, weights: Mapping[str, Tensor], path: Path) -> None:
        """Write the trained part, given by `units` and names within them, as the published file."""

    def sample(self, exported: Path, video: Path) -> None:
        """Make a clip of a held-out example with an exported file."""
