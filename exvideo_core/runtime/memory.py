"""Memory of a device, and weights that are on it only temporarily."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..nn.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

_WORKING_SPACE = 2**30  # bytes for the activations of a network that is temporarily on a device


def num_bytes(module: nn.Module) -> int:
    """Size of all weights, each counted once."""
    return sum(weight.numel() * weight.element_size() for weight in (*module.parameters(), *module.buffers()))


def free_bytes(device: torch.device) -> float:
    """Memory available for new tensors; infinite for devices that do not report it."""
    if device.type != "cuda":
        return math.inf
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


@contextmanager
def temporarily_on(module: nn.Module, device: torch.device, free: float) -> Iterator[None]:
    """Move a network's weights to a device, if they fit into its `free` bytes, and back afterwards.

    Nothing is copied back: the original tensors are put in again, so weights mapped from a file stay mapped.
    """
    if num_bytes(module) + _WORKING_SPACE > free:
        yield
        return
    host_weights = [(weight, weight.data) for weight in (*module.parameters(), *module.buffers())]
    try:
        _move(host_weights, device)
        yield
    finally:
        for weight, host_weight in host_weights:
            weight.data = host_weight
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _move(host_weights: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> None:
    """Move all weights to a device, or none if it runs out of memory, which another program may have taken."""
    try:
        for weight, host_weight in host_weights:
            weight.data = host_weight.to(device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        log.warning("ExVideo: out of memory: the encoder stays where it is (same result, slower).")
        for weight, host_weight in host_weights:
            weight.data = host_weight
