"""The processes of one run, as torchrun starts them: one for each GPU."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]  # exported all the same

_PATIENCE = timedelta(hours=12)  # the first process samples and encodes while the others wait for it


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among all of them.

    Attributes:
        rank: its number; 0 writes files and talks.
        world: how many there are.
        device: where it computes.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            dist.barrier()

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401  anything that can be pickled
        """Every process's value, by rank, in every process."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        with warnings.catch_warnings():  # of a call inside of torch.distributed, which its own next version renames
            warnings.filterwarnings("ignore", category=FutureWarning)
            dist.all_gather_object(values, value)
        return values

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, in double precision: the same bits whoever holds which part, but for luck."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()


@contextmanager
def joined(device: str | None = None, *, always: bool = False) -> Iterator[World]:
    """Join the processes that torchrun started; without it, be the only one.

    Args:
        device: such as cpu; CUDA where there is one, each process with a GPU of its own.
        always: have a process group also for one process, which DeepSpeed needs.
    """
    rank, world, local = (int(os.environ.get(name, start)) for name, start in _PLACES)
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    place = torch.device(f"cuda:{local}" if kind == "cuda" else kind)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    ranks = World(rank=rank, world=world, device=place)
    if world == 1 and not always:
        yield ranks
        return
    # object gathering and checkpoints need a way on the CPU as well
    backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
    if world == 1:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    else:
        dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


_PLACES = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
