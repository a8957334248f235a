"""Storages of emulated tensors: their memory, their address, and who uses them."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from torch import Tensor

from .memory import Memory, pinned_size
from .streams import Races, Stream, Uses

_PAGE = 4096


class Storage:
    """A storage.

    Attributes:
        place, size: where its memory is counted, and how much.
        uses: reads and writes so far.
        address: of its first byte; 0 if nobody asked.
        is_pinned: whether PyTorch page-locked it.
    """

    __slots__ = ("address", "is_pinned", "place", "size", "uses")

    def __init__(self, place: str, size: int, uses: Uses, *, is_pinned: bool = False) -> None:
        self.place, self.size, self.uses, self.is_pinned = place, size, uses, is_pinned
        self.address = 0


class Storages:
    """All storages that are alive, by the identity of PyTorch's own object."""

    def __init__(self, memory: Memory, races: Races) -> None:
        self.memory, self.races = memory, races
        self._alive: dict[int, Storage] = {}
        self._next_address = 2**40

    def of(self, tensor: Tensor) -> Storage:
        """The storage of a tensor; one that nobody allocated here is a view of the host's memory."""
        known = self._alive.get(tensor.untyped_storage()._cdata)
        return known or self._add(tensor, Storage("", 0, Uses(None, "the host")))

    def allocate(
        self, tensor: Tensor, place: torch.device, owner: Stream | None, what: str, *, is_pinned: bool
    ) -> None:
        """Count the memory of a new tensor until its storage is freed."""
        num_bytes = tensor.untyped_storage().nbytes()
        size = self.memory.take(str(place), num_bytes, what)
        if is_pinned:  # never given back: PyTorch keeps it for the next pinned tensor
            self.memory.take("locked", pinned_size(num_bytes), what)
        self._add(tensor, Storage(str(place), size, Uses(owner, what), is_pinned=is_pinned))

    def address(self, tensor: Tensor) -> int:
        """`Tensor.data_ptr`."""
        storage = self.of(tensor)
        if not storage.address:
            storage.address = self._next_address
            self._next_address += -(-tensor.untyped_storage().nbytes() // _PAGE) * _PAGE + _PAGE
        return storage.address + tensor.storage_offset() * tensor.itemsize

    def keys(self, tensors: Iterable[Tensor]) -> set[int]:
        """Identities of the storages of tensors."""
        return {tensor.untyped_storage()._cdata for tensor in tensors}

    def _add(self, tensor: Tensor, storage: Storage) -> Storage:
        untyped = tensor.untyped_storage()
        if untyped._cdata not in self._alive:
            weakref.finalize(untyped, self._freed, untyped._cdata).atexit = False
        self._alive[untyped._cdata] = storage
        return storage

    def _freed(self, key: int) -> None:
        storage = self._alive.pop(key)
        if storage.place:
            self.memory.give_back(storage.place, storage.size)
        self.races.given_back(storage.uses)


class Runtime:
    """The part of `torch.cuda.cudart()` that locks the host's memory, exactly as much as asked."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.registered: dict[int, int] = {}

    def cudaHostRegister(self, begin: int, size: int, _flags: int) -> int:  # noqa: N802  CUDA's name
        if self.memory.now["locked"] + size > self.memory.lockable:
            return 2  # cudaErrorMemoryAllocation
        self.memory.take("locked", size, "cudaHostRegister")
        self.registered[begin] = size
        return 0

    def cudaHostUnregister(self, begin: int) -> int:  # noqa: N802
        self.memory.give_back("locked", self.registered.pop(begin))
        return 0

    def is_registered(self, address: int) -> bool:
        return any(begin <= address < begin + size for begin, size in self.registered.items())
