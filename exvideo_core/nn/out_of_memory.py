"""Out of memory: retry with smaller chunks or tiles, then an error that says what to lower."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ..errors import ExVideoError

log = logging.getLogger(__name__)

T = TypeVar("T")

SMALLEST_CHUNK = 2**24  # bytes: below, nearly all memory is in tensors that cannot be chunked
SMALLEST_TILE = 16  # latent cells

# Messages of other errors that mean it: from cuBLAS and cuDNN (whose convolutions report that no plan's workspace found
# room as "unable to find an engine", pytorch#108645), MPS, Level Zero, main memory.
_SAYINGS = (
    *("out of memory", "alloc_failed", "allocation_failed", "unable to find an engine", "invalid buffer size"),
    *("out_of_device_memory", "can't allocate memory", "not enough memory"),
)


class DeviceMemoryError(ExVideoError, torch.cuda.OutOfMemoryError):
    """Out of memory. A torch.OutOfMemoryError too, upon which hosts free what they hold."""


class Chunked(Protocol):
    """A network that computes in chunks."""

    chunk_bytes: int  # for the temporary tensors of one chunk; changes results by rounding only


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that a device or main memory is full."""
    said = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _SAYINGS)
    return said or isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)


@contextmanager
def explained(doing: str, hint: str) -> Iterator[None]:
    """Turn out-of-memory errors in a block into a DeviceMemoryError; `hint` is a sentence about what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, ExVideoError) or not is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
        raise DeviceMemoryError(f"out of memory while {doing}. {hint} ({reason})") from error


def retry_with_smaller_chunks(network: Chunked, compute: Callable[[], T]) -> T:
    """Run `compute`, which calls the network; out of memory, retry with smaller chunks, and keep that chunk size.

    `compute` must be repeatable.
    """
    while True:
        try:
            return compute()
        except (RuntimeError, MemoryError) as error:
            if not _has_smaller_chunks(network, error):
                raise
        _take_smaller_chunks(network)  # outside of `except`, where the tensors of the failed try are free


def resumed_with_smaller_chunks(network: Chunked, start: Callable[[], Iterator[T]]) -> Iterator[T]:
    """Items of `start()`; out of memory, it starts over with smaller chunks, and items that were yielded are left out.

    It must yield as many items each time.
    """
    count = 0
    while True:
        try:
            for item in islice(start(), count, None):
                count += 1
                yield item
            return
        except (RuntimeError, MemoryError) as error:
            if not _has_smaller_chunks(network, error):
                raise
        _take_smaller_chunks(network)


def _has_smaller_chunks(network: Chunked, error: BaseException) -> bool:
    return network.chunk_bytes > SMALLEST_CHUNK and is_out_of_memory(error)


def _take_smaller_chunks(network: Chunked) -> None:
    free_unused()
    network.chunk_bytes //= 2
    log.warning(
        "ExVideo: out of memory: retrying with chunks of %g MiB (same result, slower).", network.chunk_bytes / 2**20
    )


@contextmanager
def restore_chunk_bytes(network: Chunked) -> Iterator[None]:
    """Restore the chunk size at the end of a block, in which `retry_with_smaller_chunks` may lower it."""
    given = network.chunk_bytes
    try:
        yield
    finally:
        network.chunk_bytes = given


def retry_with_smaller_tiles(decode: Callable[[int | None], T], side: int) -> T:
    """Decode the whole picture (`decode(None)`); out of memory, retry with tiles of half the side, and so on.

    Args:
        decode: takes the side of the tiles, in latent cells.
        side: of the picture, or of the tiles that it is always cut into.
    """
    tile: int | None = None
    while True:
        try:
            return decode(tile)
        except (RuntimeError, MemoryError) as error:
            if side <= SMALLEST_TILE or not is_out_of_memory(error):
                raise
        tile = side = _smaller_tile(side)


def resumed_with_smaller_tiles(decode: Callable[[int | None], Iterator[Tensor]], side: int) -> Iterator[Tensor]:
    """`retry_with_smaller_tiles` of spans of frames [t, ...]; frames that were yielded are left out of a retry."""
    tile: int | None = None
    count = 0
    while True:
        first = 0
        try:
            for span in decode(tile):
                first, left_out = first + len(span), max(0, count - first)
                if first > count:
                    count = first
                    yield span[left_out:]
            return
        except (RuntimeError, MemoryError) as error:
            if side <= SMALLEST_TILE or not is_out_of_memory(error):
                raise
        tile = side = _smaller_tile(side)


def _smaller_tile(side: int) -> int:
    tile = max(SMALLEST_TILE, (side + 1) // 2)
    free_unused()
    log.warning("ExVideo: out of memory: retrying with tiles of %d latent cells (seams may show).", tile)
    return tile


def free_unused() -> None:
    """Release memory that PyTorch caches, and that may be too fragmented to use."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        forget_error()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
    elif torch.xpu.is_initialized():
        torch.xpu.empty_cache()


def forget_error() -> None:
    """Clear CUDA's last error, which it reports again at the next launch."""
    used = (index for index in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(index))
    device = torch.device("cuda", next(used, torch.cuda.current_device()))  # a device in use: a first use takes memory
    with suppress(RuntimeError):
        few = torch.zeros(1, device=device)
        few.add(few)  # a kernel's launch: a fill may be a memset, which leaves the error
        torch.cuda.synchronize(device)
