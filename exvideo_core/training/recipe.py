"""The interface between a family and shared training code: its network in training, mostly frozen, and its recipe."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..runtime.distributed import World
from ..weights.formats import FORMATS
from .settings import Training
from .sources import Clip, OnPrepare, Source

HELD_OUT_SEED = 7919  # of the noise on held-out clips, which is never trained on
SAMPLING_STEPS = 25  # of validation videos
Config = TypeVar("Config", bound=Training)


class Target(ABC, Generic[Config, Clip]):
    """A network in training. Clips are known by their position in the run, which does not depend on the processes.

    Args:
        network: is moved to the device and frozen, in the run's precision.
        units: the modules of it, or beside it, that are trained; see `freeze`.
        blocks: classes of modules that gradient checkpointing computes twice.
    """

    held_out_levels: ClassVar[Sequence[float]]  # of the noise, where the held-out loss is taken

    def __init__(
        self,
        config: Config,
        network: nn.Module,
        units: Mapping[str, nn.Module],
        blocks: tuple[type[nn.Module], ...],
        source: Source[Clip],
        device: torch.device,
    ) -> None:
        self.config, self.units, self.source, self.device = config, units, source, device
        self.dtype = FORMATS[config.run.precision]
        freeze(network, units.values(), self.dtype, device)
        self.num_frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
        self.base_frames = config.geometry.latent_frames(config.model.base_frames)
        self.num_held_out = source.num_held_out * len(self.held_out_levels)  # clips times noise levels
        if config.run.checkpointing:
            checkpoint_blocks(module for module in network.modules() if isinstance(module, blocks))

    def window(self, length: int, step: int, generator: torch.Generator) -> range:
        """The frames (or latent frames) of a clip that a step takes."""
        windows = self.config.data.windows
        size = windows[step % len(windows)] if windows else length
        start = int(torch.randint(0, length - size + 1, (), generator=generator))
        return range(start, start + size)

    @abstractmethod
    def loss(self, position: int, step: int) -> Tensor:
        """Loss of one clip; a function of its arguments and the weights alone."""

    @abstractmethod
    def held_out_errors(self, item: int) -> Tensor:
        """Squared error of v for each frame (or latent frame) of a held-out clip, [T]; likewise."""

    @abstractmethod
    def export(self, weights: Mapping[str, Tensor], path: Path) -> None:
        """Write the trained weights, named by unit and parameter, in the published file format."""

    @abstractmethod
    def sample(self, exported: Path, video: Path) -> None:
        """Make a video of a held-out example with an exported file."""


def freeze(network: nn.Module, units: Iterable[nn.Module], dtype: torch.dtype, device: torch.device) -> None:
    """Move a network to the device, frozen and in `dtype`, except for the units, which are trained in float32.

    With another `dtype` this is mixed precision: the units compute in it (by autocast), while their weights, gradients
    and optimizer state stay in float32.
    """
    units = list(units)
    trained = [p for unit in units for p in unit.parameters()]
    originals = [p.data for p in trained]
    network.requires_grad_(False)
    network.to(device, dtype)
    with torch.no_grad():
        for p, original in zip(trained, originals, strict=True):
            p.data = original.to(device, torch.float32, copy=True)
            p.requires_grad_(True)
    if dtype != torch.float32:
        for unit in units:
            unit.forward = torch.autocast(device.type, dtype)(unit.forward)


def checkpoint_blocks(blocks: Iterable[nn.Module]) -> None:
    """Gradient checkpointing: keep only the blocks' inputs, and recompute each block in the backward pass."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe(Generic[Config]):
    """How a family is post-tuned.

    Attributes:
        config: class of its configurations.
        build: read the networks, encode clips that are not cached yet, and freeze what is not trained.
        parts: the network, and the modules that would be trained, for their sizes.
    """

    config: type[Config]
    build: Callable[[Config, World, OnPrepare | None], Target[Config, Any]]
    parts: Callable[[Config], tuple[nn.Module, Mapping[str, nn.Module]]]
