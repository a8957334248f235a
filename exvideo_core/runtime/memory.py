"""Memory of a device, and weights that are on it only temporarily."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from ..nn.chunks import CHUNK_BYTES, chunk_bytes_for
from ..nn.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_WORKING_SPACE = 2**30  # bytes for the activations of a network that is temporarily on a device


def weights_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers of a module."""
    return [*module.parameters(), *module.buffers()]


def give_weights(module: nn.Module, values: Sequence[Tensor]) -> None:
    """Put these tensors in the place of all weights."""
    for weight, value in zip(weights_of(module), values, strict=True):
        weight.data = value


def num_bytes(module: nn.Module) -> int:
    """Size of all weights, each counted once."""
    return sum(weight.nbytes for weight in weights_of(module))


def free_bytes(device: torch.device) -> float:
    """Memory available for new tensors; infinite for devices that do not report it."""
    accelerator: Any = getattr(torch, device.type, None)  # torch.cuda, torch.xpu
    if not hasattr(accelerator, "mem_get_info"):
        return math.inf
    free, _ = accelerator.mem_get_info(device)
    cached = accelerator.memory_reserved(device) - accelerator.memory_allocated(device)
    return float(free + cached)


def chunk_bytes_on(*devices: torch.device) -> int:
    """Chunk size for networks on these devices, which compute the same."""
    return min((_chunk_bytes(device) for device in devices), default=CHUNK_BYTES)


def _chunk_bytes(device: torch.device) -> int:
    accelerator: Any = getattr(torch, device.type, None)  # torch.cuda, torch.xpu
    if not hasattr(accelerator, "get_device_properties") or not accelerator.is_available():
        return CHUNK_BYTES
    return chunk_bytes_for(accelerator.get_device_properties(device).total_memory)


def on_own_device(call: Callable[P, T]) -> Callable[P, T]:
    """Decorator of a pipeline's call: its CUDA device is the current one, on which some packages launch kernels."""

    @wraps(call)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        device: torch.device = args[0].device  # type: ignore[attr-defined]  # of the pipeline
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            return call(*args, **kwargs)

    return guarded


@contextmanager
def temporarily_on(module: nn.Module, device: torch.device, free: float) -> Iterator[None]:
    """Move a network's weights to a device, if they fit into its `free` bytes, and back afterwards.

    Nothing is copied back: the original tensors are put in again, so weights mapped from a file stay mapped.
    """
    if num_bytes(module) + _WORKING_SPACE > free:
        yield
        return
    host_weights = [weight.data for weight in weights_of(module)]
    try:
        try:
            for weight in weights_of(module):
                weight.data = weight.data.to(device)
        except (RuntimeError, MemoryError) as error:  # another program may have taken the memory
            if not is_out_of_memory(error):
                raise
            log.warning("ExVideo: out of memory: the encoder stays where it is (same result, slower).")
            give_weights(module, host_weights)
        yield
    finally:
        give_weights(module, host_weights)
        if device.type == "cuda":
            torch.cuda.empty_cache()
