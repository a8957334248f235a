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

_TIMEOUT = timedelta(hours=12)  # the first process samples and encodes while the others wait


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among all of them."""

    rank: int = 0  # its number; 0 writes files and logs
    size: int = 1  # number of processes
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  # where it computes

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Barrier: return when all processes have called it."""
        if self.size > 1:
            dist.barrier()

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401  anything that can be pickled
        """Every process's value, by rank, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with warnings.catch_warnings():  # of a call inside torch.distributed, renamed in its next version
            warnings.filterwarnings("ignore", category=FutureWarning)
            dist.all_gather_object(values, value)
        return values

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes in float64, where the order of the sum hardly matters."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()


@contextmanager
def init_world(device: str | None = None, *, always: bool = False) -> Iterator[World]:
    """Join the processes that torchrun started; without torchrun, a world of one.

    Args:
        device: such as cpu; by default CUDA if available, a GPU for each process.
        always: make a process group for a single process too, which DeepSpeed needs.
    """
    given = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", **os.environ}
    rank, size, local = (int(given[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    place = torch.device(f"cuda:{local}" if kind == "cuda" else kind)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    world = World(rank=rank, size=size, device=place)
    if size == 1 and not always:
        yield world
        return
    # gathering objects and saving checkpoints need a backend on the CPU as well
    backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
    if size == 1:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    else:
        dist.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield world
    finally:
        dist.destroy_process_group()
