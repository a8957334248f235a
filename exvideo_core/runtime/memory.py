"""What sits on which device, and when."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..nn.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

_WORKING_SPACE = 2**30  # bytes a visitor has for its activations


def num_bytes(module: nn.Module) -> int:
    """Of all weights, each counted once."""
    return sum(weight.numel() * weight.element_size() for weight in (*module.parameters(), *module.buffers()))


def free_bytes(device: torch.device) -> float:
    """Memory that new tensors can have; infinite where nobody counts it."""
    if device.type != "cuda":
        return math.inf
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


@contextmanager
def temporarily_on(module: nn.Module, device: torch.device, free: float) -> Iterator[None]:
    """Have a network's weights on a device for a while, if they find room; afterwards they are where they were.

    Where they were nothing is copied back, so memory mapped from a file stays so.

    Args:
        module: what visits.
        device: where.
        free: bytes there are for it.
    """
    if num_bytes(module) + _WORKING_SPACE > free:
        yield
        return
    homes = [(weight, weight.data) for weight in (*module.parameters(), *module.buffers())]
    try:
        _move(homes, device)
        yield
    finally:
        for weight, home in homes:
            weight.data = home
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _move(homes: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> None:
    """Bring all weights to a device, or none where memory ends after all: another program may have taken it."""
    try:
        for weight, home in homes:
            weight.data = home.to(device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        log.warning("ExVideo: memory ended. The encoder computes where it is, more slowly.")
        for weight, home in homes:
            weight.data = home
