"""Held-out loss: the error of v on clips that are never trained on, at fixed noise levels and with fixed noise.

It needs no sampling, is comparable between steps, and is reported for each frame: an extension is for the frames beyond
the base's length.
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

    by_frame: tuple[float, ...]  # or latent frame, of the clip
    base_frames: int  # of these, that the base was trained on

    @property
    def all(self) -> float:
        """Mean over all frames."""
        return _mean(self.by_frame)

    @property
    def within(self) -> float:
        """Mean over the frames that the base was trained on."""
        return _mean(self.by_frame[: self.base_frames])

    @property
    def beyond(self) -> float:
        """Mean over the frames after those; over all, if there are none."""
        return _mean(self.by_frame[self.base_frames :] or self.by_frame)


def held_out_loss(target: Target, world: World) -> HeldOut:
    """Measure the held-out loss; a collective call, whose work the processes share."""
    count = target.num_held_out
    rounds = -(-count // world.size)
    # every process takes part in every round, because gathering sharded weights is collective
    mine = [min(i * world.size + world.rank, count - 1) for i in range(rounds)]
    errors = {item: target.held_out_errors(item).tolist() for item in mine}
    measured: dict[int, list[float]] = {}
    for part in world.gather(errors):
        measured |= part
    by_item = torch.tensor([measured[item] for item in sorted(measured)], dtype=torch.float64)
    mean: Tensor = by_item.mean(dim=0)
    return HeldOut(by_frame=tuple(mean.tolist()), base_frames=target.base_frames)


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)
