"""Held-out loss: the error of v on clips that are never trained on, at fixed noise levels and with fixed noise.

It needs no sampling, compares between steps, and says for each frame of the clip how well it is known: the frames
beyond the base's length are what an extension is for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..runtime.distributed import World
from .target import Target


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Mean error of v, over clips and noise levels."""

    by_frame: tuple[float, ...]  # of the clip, or of latent frames
    base_frames: int  # of them that the base knows

    @property
    def all(self) -> float:
        """Of all frames."""
        return _mean(self.by_frame)

    @property
    def within(self) -> float:
        """Of the frames that the base was trained on."""
        return _mean(self.by_frame[: self.base_frames])

    @property
    def beyond(self) -> float:
        """Of the frames after those; of all, if there are none."""
        return _mean(self.by_frame[self.base_frames :] or self.by_frame)


def held_out_loss(target: Target, world: World) -> HeldOut:
    """Measure; to be called by all processes, which share the work and all get the result."""
    count = target.num_held_out
    turns = -(-count // world.size)
    # every process takes part in every turn, because sharded weights are gathered together
    mine = [min(turn * world.size + world.rank, count - 1) for turn in range(turns)]
    errors = {item: target.held_out_errors(item).tolist() for item in mine}
    measured: dict[int, list[float]] = {}
    for part in world.gather(errors):
        measured |= part
    by_item = torch.tensor([measured[item] for item in sorted(measured)], dtype=torch.float64)
    mean: Tensor = by_item.mean(dim=0)
    return HeldOut(by_frame=tuple(mean.tolist()), base_frames=target.base_frames)


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)
