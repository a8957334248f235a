"""When a device has no memory left: the same once more in smaller pieces, then what to lower, in words."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

import torch

from ..errors import ExVideoError

log = logging.getLogger(__name__)

T = TypeVar("T")

SMALLEST_CHUNK = 2**24  # bytes: below, the tensors that must be whole are nearly all there is
SMALLEST_TILE = 16  # latent cells

# Besides its own kind of error PyTorch says it in these words: cuBLAS and cuDNN, other accelerators, main memory.
_SAYINGS = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory")


class DeviceMemoryError(ExVideoError, torch.cuda.OutOfMemoryError):
    """A device has no memory left. Also PyTorch's own kind of error, upon which hosts free what they hold."""


class Chunked(Protocol):
    """A network that computes in pieces.

    Attributes:
        chunk_bytes: for the temporary tensors of one; results depend on it by rounding at most.
    """

    chunk_bytes: int


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or main memory, could not hold a tensor."""
    said = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _SAYINGS)
    return said or isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)


@contextmanager
def explained(doing: str, advice: str) -> Iterator[None]:
    """In it, an error about memory becomes one that says what to do.

    Raises:
        DeviceMemoryError: memory ended while `doing`; `advice` is a sentence about what to lower.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, ExVideoError) or not is_out_of_memory(error):
            raise
        raise DeviceMemoryError(f"memory ended while {doing}. {advice} ({str(error).partition(chr(10))[0]})") from error


def retry_with_smaller_chunks(network: Chunked, compute: Callable[[], T]) -> T:
    """What `compute` gives, which calls the network; where memory ends, in smaller pieces, and they stay so.

    `compute` changes nothing that it needs again, as it may start several times.
    """
    while True:
        try:
            return compute()
        except (RuntimeError, MemoryError) as error:
            if network.chunk_bytes <= SMALLEST_CHUNK or not is_out_of_memory(error):
                raise
        free_unused()  # only here are the tensors of the first try free
        network.chunk_bytes //= 4
        log.warning(
            "ExVideo: memory ended. Trying again in pieces of %g MiB: the same, slower.", network.chunk_bytes / 2**20
        )


@contextmanager
def restore_chunk_bytes(network: Chunked) -> Iterator[None]:
    """Afterwards the pieces are as large as before, whatever `retry_with_smaller_chunks` did."""
    given = network.chunk_bytes
    try:
        yield
    finally:
        network.chunk_bytes = given


def retry_with_smaller_tiles(decode: Callable[[int | None], T], side: int) -> T:
    """What `decode` gives of the whole picture (None); where memory ends, of tiles with half the side, and so on.

    Args:
        decode: told the side of the tiles, in latent cells.
        side: of the picture, or of the tiles that it is always cut into.
    """
    tile: int | None = None
    while True:
        try:
            return decode(tile)
        except (RuntimeError, MemoryError) as error:
            if side <= SMALLEST_TILE or not is_out_of_memory(error):
                raise
        tile = side = max(SMALLEST_TILE, (side + 1) // 2)
        free_unused()
        log.warning("ExVideo: memory ended. Trying again in tiles of %d latent cells, whose seams may show.", tile)


def free_unused() -> None:
    """Give memory back that PyTorch keeps for later, which may lie in pieces too small to use."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        forget_error()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def forget_error() -> None:
    """CUDA reports its last error once more at the next launch, whatever that is."""
    with suppress(RuntimeError):
        torch.zeros(1, device="cuda")
