"""Memory that ends, or somebody who presses Ctrl-C, at one operation of PyTorch after another."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from exvideo_core.nn import out_of_memory

from .outcomes import (
    LOST,
    OTHER,
    POISONED,
    ROUNDED,
    SAME,
    STOPPED,
    TILED,
    Count,
    Fault,
    compared,
    end_of,
    nothing_stays,
    state_of,
)

_REPEATED = 5  # injections from one time to the next that the work is repeated: what is spoilt stays so
ALWAYS = 10**9  # times that memory ends once it has ended


class NoMemory(TorchDispatchMode):
    """Raises PyTorch's error, or another, at an operation, and at those after it for so many times.

    Only operations that make a tensor or write into one count, for a view needs no memory. What an operation writes
    into is already written when it fails: the worst moment.

    Args:
        first: number of the first operation that fails, from 0; None fails at none, and counts.
        times: how many fail.
        room: bytes that all tensors together may have that are made in it; what would be more fails.
    """

    def __init__(
        self,
        first: int | None = None,
        times: int = 1,
        room: float = math.inf,
        error: type[BaseException] = torch.OutOfMemoryError,
    ) -> None:
        super().__init__()
        self.error = error
        self.first, self.times, self.room = first, times, room
        self.operations = self.alive = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._needs_memory(func, (args, kwargs), result):
            return result
        number, self.operations = self.operations, self.operations + 1
        if math.isfinite(self.room):
            self._follow(func, result)
        if (self.first is not None and self.first <= number < self.first + self.times) or self.alive > self.room:
            raise self.error(f"CUDA out of memory. Tried to allocate for {func}")
        return result

    def _follow(self, func: Any, result: Any) -> None:
        if func._schema.is_mutable:
            return
        for storage in (each.untyped_storage() for each in _tensors(result)):
            self.alive += storage.nbytes()
            weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, size: int) -> None:
        self.alive -= size

    @staticmethod
    def _needs_memory(func: Any, given: Any, result: Any) -> bool:
        if func._schema.is_mutable:
            return not any(each.is_meta for each in _tensors(given))
        if func.is_view:
            return False
        there = {each.untyped_storage()._cdata for each in _tensors(given)}
        return any(each.untyped_storage()._cdata not in there for each in _tensors(result) if not each.is_meta)


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@dataclass(frozen=True)
class Subject:
    """Work that memory ends in.

    Attributes:
        where: for the table.
        work: does it, and gives its results; memory ends in it.
        prepare: comes before, where each attempt needs something of its own.
        result: comes after, where the work's results are not what is to be compared.
        networks: that it uses.
        kept: tensors that must survive it, such as the latents that are decoded.
        every: only so-many-th operations, in a full run.
        is_exact: a result after a retry is the same bits: nothing is cut at these sizes.
        may_tile: whether it may decode in tiles.
    """

    where: str
    work: Callable[[], Sequence[Tensor]]
    networks: tuple[nn.Module, ...] = ()
    kept: tuple[Tensor, ...] = ()
    prepare: Callable[[], object] = lambda: None
    result: Callable[[Sequence[Tensor]], Sequence[Tensor]] = lambda found: found
    every: int = 1
    is_exact: bool = True
    may_tile: bool = False


class Attempts:
    """Injections into one subject, and the same work without a fault again and again."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.count = subject, Count()
        subject.prepare()
        self.wanted = self._work()
        self.state = state_of(*subject.networks)
        self.kept = [each.clone() for each in subject.kept]
        counting = NoMemory()
        subject.prepare()
        self._work(counting)
        self.operations = counting.operations

    def _work(self, fault: AbstractContextManager[object] | None = None) -> list[Tensor]:
        with fault or nullcontext():
            found = self.subject.work()
        return [each.clone() for each in self.subject.result(found)]

    def attempt(self, fault: NoMemory) -> None:
        """One injection, and a look at what it left."""
        label = f"{self.subject.where}, operation {fault.first}, {fault.times} times, room {fault.room}"
        tiled: list[int] = []
        self.subject.prepare()
        try:
            with _watching_tiles(tiled):
                found = self._work(fault)
            end = TILED if tiled else compared(found, self.wanted)
            if end is None or (end == ROUNDED and self.subject.is_exact) or (tiled and not self.subject.may_tile):
                self.count.add_harm(OTHER, f"{label}: a wrong result")
                end = end or ROUNDED
        except KeyboardInterrupt:
            end = STOPPED
        except Exception as error:  # noqa: BLE001  what is no error for people is counted as harm
            end = end_of(error)
            if end is None:
                self.count.add_harm(OTHER, f"{label}: {type(error).__name__}: {error}")
                end = "error"
        self.count.add(end)
        self._look(label)
        if self.count.injections % _REPEATED == 1:
            self.repeat(label)

    def repeat(self, label: str) -> None:
        """The same work without a fault must give the same bits."""
        try:
            end = compared(self._work(), self.wanted)
        except Exception as error:  # noqa: BLE001  a spoilt model may fail in any way
            end = type(error).__name__
        if end != SAME:
            self.count.add_harm(POISONED, f"{label}: {end}")

    def _look(self, label: str) -> None:
        if state_of(*self.subject.networks) != self.state:
            self.count.add_harm(POISONED, label)
        if not all(map(torch.equal, self.subject.kept, self.kept)):
            self.count.add_harm(LOST, label)


@contextmanager
def _watching_tiles(seen: list[int]) -> Iterator[None]:
    """In it, noted each time that decoding goes on in smaller tiles."""
    inner = out_of_memory.log.warning

    def warning(text: str, *given: int) -> None:
        if "tiles" in text:
            seen.extend(given)
        inner(text, *given)

    with patch.object(out_of_memory.log, "warning", warning):
        yield


def at_every_operation(
    make: Callable[[], Subject], times: int, error: type[BaseException] = torch.OutOfMemoryError
) -> Callable[[int], Count]:
    """Memory that ends at each operation in turn, `times` times in a row, or another error there."""

    def inject(stride: int) -> Count:
        attempts = Attempts(make())
        step = stride * attempts.subject.every
        # looking through all of Python's objects takes seconds: once for each subject
        with nothing_stays(attempts.count, attempts.subject.where) if times == 1 else nullcontext():
            for first in range(0, attempts.operations, step):
                attempts.attempt(NoMemory(first, times, error=error))
            attempts.repeat(f"{attempts.subject.where}, after all")
        return attempts.count

    return inject


def on_small_devices(make: Callable[[], Subject], sizes: Sequence[int]) -> Callable[[int], Count]:
    """Devices that have so many bytes beside the weights."""

    def inject(stride: int) -> Count:
        attempts = Attempts(make())
        for size in sizes[::stride]:
            attempts.attempt(NoMemory(room=size))
        attempts.repeat(f"{attempts.subject.where}, after all")
        return attempts.count

    return inject


def faults_of(make: Callable[[], Subject], where: str) -> list[Fault]:
    """The rows of one subject."""
    return [
        Fault(f"no memory at an operation, {said}", where, at_every_operation(make, times))
        for said, times in (("once", 1), ("twice in a row", 2), ("from there on", ALWAYS))
    ]
