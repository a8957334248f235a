"""The interface of a network in training: its trained part, clips and loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn


class Target(Protocol):
    """A network in training. Clips are known by their position in the run, which does not depend on the processes."""

    @property
    def units(self) -> Mapping[str, nn.Module]:
        """The modules that are trained; see `freezing.freeze`."""

    @property
    def num_frozen(self) -> int:
        """Parameters of the frozen part of the network."""

    @property
    def base_frames(self) -> int:
        """Frames (or latent frames) that the base was trained on."""

    @property
    def num_held_out(self) -> int:
        """Items of the held-out grid: clips times noise levels."""

    def loss(self, position: int, step: int) -> Tensor:
        """Loss of one clip; a function of its arguments and the weights alone."""

    def held_out_errors(self, item: int) -> Tensor:
        """Squared error of v for each frame (or latent frame) of a held-out clip, [T]; likewise."""

    def export(self, weights: Mapping[str, Tensor], path: Path) -> None:
        """Write the trained weights, named by unit and parameter, in the published file format."""

    def sample(self, exported: Path, video: Path) -> None:
        """Make a video of a held-out example with an exported file."""
