"""Weights that stay in main memory and come to the device a block at a time: the next one while a block computes.

At most two blocks have their weights on the device, and results are the same bits. Blocks are modules that are called
one after the other, such as the layers of a UNet; a block's weights are not to be used outside of its calls.
"""

from __future__ import annotations

import logging
import mmap
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..nn.out_of_memory import forget_error

log = logging.getLogger(__name__)

_ALIGNMENT = 256  # bytes, what CUDA's own allocations begin at multiples of
_PORTABLE = 1  # cudaHostRegisterPortable: page-locked for all devices

BlocksOf = Callable[[Any], Sequence[nn.Module]]


class CopyStream(Protocol):
    """Copies to a device beside its computing. An event is a place in the order of what one of the two was told."""

    def copy(self, target: Tensor, source: Tensor, after: Any) -> Any:  # noqa: ANN401  events are the lane's own
        """Copy once the event `after` is reached; gives the event of being done."""

    def wait(self, event: Any) -> None:  # noqa: ANN401
        """Hold what the device is told to compute from now on until the event."""

    def mark(self) -> Any:  # noqa: ANN401
        """The event of all that the device was told to compute so far."""


class SyncCopy:
    """The lane of a device that knows no order but the program's: what it is told is done before it returns."""

    def copy(self, target: Tensor, source: Tensor, after: None) -> None:
        target.copy_(source)

    def wait(self, event: None) -> None:
        pass

    def mark(self) -> None:
        pass


class CudaCopyStream:
    """A CUDA stream that copies while the current one computes; the program waits for neither."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.side = device, torch.cuda.Stream(device)

    def copy(self, target: Tensor, source: Tensor, after: torch.cuda.Event) -> torch.cuda.Event:
        self.side.wait_event(after)
        with torch.cuda.stream(self.side):
            target.copy_(source, non_blocking=True)
        return self.side.record_event()

    def wait(self, event: torch.cuda.Event) -> None:
        torch.cuda.current_stream(self.device).wait_event(event)

    def mark(self) -> torch.cuda.Event:
        return torch.cuda.current_stream(self.device).record_event()


def copy_stream_to(device: torch.device) -> CopyStream:
    """The fastest lane there is."""
    return CudaCopyStream(device) if device.type == "cuda" else SyncCopy()


# main memory


class BlockMemory:
    """A block's weights side by side in main memory, so that one copy brings them all.

    The block's own weights become views of it; what they were, such as a mapped file, is let go.

    Args:
        block: any module.
        dtype: of the weights; None leaves each as it is.
        is_locked: whether to lock the memory's pages, which CUDA needs to copy from it beside its computing.
    """

    def __init__(self, block: nn.Module, dtype: torch.dtype | None, *, is_locked: bool) -> None:
        weights = weights_of(block)
        self._wanted = [torch.empty_like(weight, dtype=_kind(weight, dtype), device="meta") for weight in weights]
        self.num_bytes = sum(map(_room, self._wanted))
        self.memory = _whole_pages(self.num_bytes)
        self.host_weights = self.views(self.memory)
        for weight, host_weight in zip(weights, self.host_weights, strict=True):
            host_weight.copy_(weight.data)
            weight.data = host_weight
        if is_locked:
            _lock(self.memory)

    @torch.inference_mode(False)  # PyTorch chooses kernels, and so rounding, by whether weights may be trained
    def views(self, memory: Tensor) -> list[Tensor]:
        """The weights, as they lie in the given memory [num_bytes] of any device."""
        views, begin = [], 0
        for wanted in self._wanted:
            part = memory[begin : begin + wanted.numel() * wanted.itemsize].view(wanted.dtype)
            views.append(part.as_strided(wanted.shape, wanted.stride()))
            begin += _room(wanted)
        return views

    def is_of(self, block: nn.Module, dtype: torch.dtype | None) -> bool:
        """Whether the block's weights are still these; a LoRA, or rounding, may have put others in their place."""
        weights = weights_of(block)
        return len(weights) == len(self.host_weights) and all(
            weight.data_ptr() == host_weight.data_ptr() and host_weight.dtype == _kind(weight, dtype)
            for weight, host_weight in zip(weights, self.host_weights, strict=True)
        )


def weights_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


def _kind(weight: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype and weight.is_floating_point() else weight.dtype


def _room(weight: Tensor) -> int:
    num_bytes = weight.numel() * weight.itemsize
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def _whole_pages(num_bytes: int) -> Tensor:
    """Memory on pages of its own: a page is locked once at most."""
    page = mmap.PAGESIZE
    memory = torch.empty((num_bytes // page + 2) * page, dtype=torch.uint8)
    begin = -memory.data_ptr() % page
    return memory[begin : begin + -(-num_bytes // page) * page]


def _lock(memory: Tensor) -> None:
    """Lock pages where they are; PyTorch's own allocator would round each block's size up to a power of two."""
    cuda = torch.cuda.cudart()
    begin = memory.data_ptr()
    code = int(cuda.cudaHostRegister(begin, memory.numel(), _PORTABLE))
    if code:
        log.warning("%d bytes of weights could not be page-locked (CUDA error %d): slower", memory.numel(), code)
        forget_error()
        return
    weakref.finalize(memory, cuda.cudaHostUnregister, begin).atexit = False


# the device


class _DoubleBuffer:
    """Two places on a device, which the blocks' weights take in turn."""

    def __init__(self, memories: Sequence[BlockMemory], device: torch.device, copy_stream: CopyStream) -> None:
        self.memories, self.copy_stream = memories, copy_stream
        size = max(memory.num_bytes for memory in memories)
        with torch.inference_mode(False):
            self.places = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2)]
        self.holds: list[int | None] = [None, None]  # number of the block whose weights are there, or coming
        self.is_there: list[Any] = [None, None]
        self.is_free: list[Any] = [copy_stream.mark(), copy_stream.mark()]
        self.running: list[int] = []  # places of the block that computes, and of one that it calls
        self.last = 0  # the place that was used last

    def enter(self, index: int) -> list[Tensor]:
        """The weights of a block that is about to compute; those of the next one set off."""
        if index not in self.holds:
            self._bring(index, self._idle())
        place = self.last = self.holds.index(index)
        self.running.append(place)
        self.copy_stream.wait(self.is_there[place])
        following = (index + 1) % len(self.memories)
        if following not in self.holds and 1 - place not in self.running:
            self._bring(following, 1 - place)
        return self.memories[index].views(self.places[place])

    def leave(self, index: int) -> None:
        """The block has been told all there is to compute, or could not enter."""
        for place in [place for place in self.running if self.holds[place] == index]:
            self.running.remove(place)
            self.is_free[place] = self.copy_stream.mark()

    def stop(self) -> None:
        """Let nothing be computed in the places' memory before the last copy to it is done."""
        for event, index in zip(self.is_there, self.holds, strict=True):
            if index is not None:
                self.copy_stream.wait(event)

    def _idle(self) -> int:
        idle = [place for place in (1 - self.last, self.last) if place not in self.running]
        if not idle:
            raise RuntimeError("a block was called by one that another had called; there are places for two")
        return idle[0]

    def _bring(self, index: int, place: int) -> None:
        memory = self.memories[index]
        target, source = self.places[place][: memory.num_bytes], memory.memory[: memory.num_bytes]
        self.holds[place] = None  # in case the copy fails
        self.is_there[place] = self.copy_stream.copy(target, source, self.is_free[place])
        self.holds[place] = index


@contextmanager
def double_buffered(
    blocks: Sequence[nn.Module],
    memories: Sequence[BlockMemory],
    device: torch.device,
    copy_stream: CopyStream | None = None,
) -> Iterator[None]:
    """In it, each block has its weights on the device while it computes.

    Args:
        blocks: in the order they are called; another order works, but waits for each. One may call another.
        memories: where their weights are. Blocks of several networks may share them.
        device: where they compute.
        copy_stream: how weights get there.
    """
    buffer = _DoubleBuffer(memories, device, copy_stream or copy_stream_to(device))
    hooks = [
        hook
        for index, block in enumerate(blocks)
        for hook in _hooks(buffer, index, block, memories[index].host_weights)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for block, memory in zip(blocks, memories, strict=True):
            _give(block, memory.host_weights)  # a block that was interrupted has not left
        buffer.stop()


def _hooks(buffer: _DoubleBuffer, index: int, block: nn.Module, host_weights: Sequence[Tensor]) -> list[Any]:
    def enter(*_: object) -> None:
        _give(block, buffer.enter(index))

    def leave(*_: object) -> None:
        _give(block, host_weights)
        buffer.leave(index)

    return [block.register_forward_pre_hook(enter), block.register_forward_hook(leave, always_call=True)]


def _give(block: nn.Module, values: Sequence[Tensor]) -> None:
    for weight, value in zip(weights_of(block), values, strict=True):
        weight.data = value


# a network


class WeightStream:
    """A network's blocks in main memory.

    Args:
        blocks_of: the blocks of the network, or of its twin on another device, in the order they are called.
        is_locked: see `BlockMemory`.
    """

    def __init__(self, blocks_of: BlocksOf, *, is_locked: bool) -> None:
        self.blocks_of, self.is_locked = blocks_of, is_locked
        self.memories: list[BlockMemory] = []

    def place(self, network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        """Put the blocks in main memory, and all other weights on a device. Nothing is copied twice."""
        self.pack(network, dtype)
        streamed = {id(weight) for block in self.blocks_of(network) for weight in weights_of(block)}
        for weight in weights_of(network):
            if id(weight) not in streamed:
                weight.data = weight.data.to(device, _kind(weight, dtype))

    @torch.inference_mode(False)  # what is made in inference mode could never be trained
    def pack(self, network: nn.Module, dtype: torch.dtype | None = None) -> None:
        """Bring the memory up to date with the network's blocks; those whose weights are in it already stay."""
        blocks = self.blocks_of(network)
        kept: list[BlockMemory | None] = [*self.memories] or [None] * len(blocks)
        self.memories = [
            memory if memory and memory.is_of(block, dtype) else BlockMemory(block, dtype, is_locked=self.is_locked)
            for memory, block in zip(kept, blocks, strict=True)
        ]

    @contextmanager
    def running(self, network: nn.Module, device: torch.device) -> Iterator[None]:
        """In it, the packed network, or a twin that shares its blocks' weights, can compute on a device."""
        with double_buffered(self.blocks_of(network), self.memories, device):
            yield
