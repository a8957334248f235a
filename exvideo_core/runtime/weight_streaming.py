"""Streams weights from main memory to the device, block by block: the next block is copied while one computes.

At most two blocks have their weights on the device, and results have the same bits. Blocks are modules that are called
one after the other, such as the layers of a UNet; a block's weights must not be used outside of its calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .locked_memory import lock, whole_pages
from .memory import give_weights, weights_of

_ALIGNMENT = 256  # bytes, as in CUDA's own allocations

BlocksOf = Callable[[Any], Sequence[nn.Module]]


class CopyStream:
    """Copies to a device without streams: they are complete when they return. An event marks a point in a queue."""

    def copy(self, target: Tensor, source: Tensor, after: Any) -> Any:  # noqa: ANN401  each stream has its own kind of event
        """Copy once the event `after` is reached; returns the event of completion."""
        target.copy_(source)

    def wait(self, event: Any) -> None:  # noqa: ANN401
        """Make later computations on the device wait for the event."""

    def mark(self) -> Any:  # noqa: ANN401
        """The event after all computations that the device has queued so far."""


class CudaCopyStream(CopyStream):
    """A CUDA stream that copies while the current stream computes; the host waits for neither."""

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


# main memory


class BlockMemory:
    """A block's weights side by side in main memory, so that one copy moves them all.

    The block's own weights become views of it; their former memory, such as a mapped file, is released.

    Args:
        dtype: of the weights; None keeps each one's own.
        is_locked: whether to page-lock the memory, which CUDA needs to copy from it while it computes.
    """

    def __init__(self, block: nn.Module, dtype: torch.dtype | None, *, is_locked: bool) -> None:
        weights = weights_of(block)
        self._wanted = [torch.empty_like(weight, dtype=_kind(weight, dtype), device="meta") for weight in weights]
        self.num_bytes = sum(map(_room, self._wanted))
        self.memory = whole_pages(self.num_bytes)
        self.host_weights = self.views(self.memory)
        for weight, host_weight in zip(weights, self.host_weights, strict=True):
            host_weight.copy_(weight.data)
            weight.data = host_weight
        if is_locked:
            lock(self.memory)

    @torch.inference_mode(False)  # PyTorch chooses kernels, and so rounding, by whether weights are trainable
    def views(self, memory: Tensor) -> list[Tensor]:
        """The weights as views of memory [num_bytes] on any device."""
        views, begin = [], 0
        for wanted in self._wanted:
            part = memory[begin : begin + wanted.numel() * wanted.itemsize].view(wanted.dtype)
            views.append(part.as_strided(wanted.shape, wanted.stride()))
            begin += _room(wanted)
        return views

    def is_of(self, block: nn.Module, dtype: torch.dtype | None) -> bool:
        """Whether the block's weights are still these; a LoRA or another dtype may have replaced them."""
        weights = weights_of(block)
        return len(weights) == len(self.host_weights) and all(
            weight.data_ptr() == host_weight.data_ptr() and host_weight.dtype == _kind(weight, dtype)
            for weight, host_weight in zip(weights, self.host_weights, strict=True)
        )


def _kind(weight: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype and weight.is_floating_point() else weight.dtype


def _room(weight: Tensor) -> int:
    num_bytes = weight.numel() * weight.itemsize
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


# the device


class _DoubleBuffer:
    """Two buffers on a device, used in turn by the blocks' weights."""

    def __init__(self, memories: Sequence[BlockMemory], device: torch.device, copy_stream: CopyStream) -> None:
        self.memories, self.copy_stream = memories, copy_stream
        size = max(memory.num_bytes for memory in memories)
        with torch.inference_mode(False):
            self.buffers = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2)]
        self.holds: list[int | None] = [None, None]  # index of the block whose weights are there, or being copied
        self.copied: list[Any] = [None, None]
        self.free: list[Any] = [copy_stream.mark(), copy_stream.mark()]
        self.running: list[int] = []  # buffers of the block that computes, and of a block that it calls
        self.last = 0  # the buffer that was used last

    def enter(self, index: int) -> list[Tensor]:
        """Return the weights of a block that is about to compute, and start copying those of the next one."""
        if index not in self.holds:
            self._copy(index, self._idle())
        buffer = self.last = self.holds.index(index)
        self.running.append(buffer)
        self.copy_stream.wait(self.copied[buffer])
        following = (index + 1) % len(self.memories)
        if following not in self.holds and 1 - buffer not in self.running:
            self._copy(following, 1 - buffer)
        return self.memories[index].views(self.buffers[buffer])

    def leave(self, index: int) -> None:
        """The block's computations are all queued, or it failed to enter."""
        for buffer in [buffer for buffer in self.running if self.holds[buffer] == index]:
            self.running.remove(buffer)
            self.free[buffer] = self.copy_stream.mark()

    def stop(self) -> None:
        """Make later computations wait for the last copies, as the buffers' memory may be reused."""
        for event, index in zip(self.copied, self.holds, strict=True):
            if index is not None:
                self.copy_stream.wait(event)

    def _idle(self) -> int:
        idle = [buffer for buffer in (1 - self.last, self.last) if buffer not in self.running]
        if not idle:
            raise RuntimeError("blocks call each other three deep; there are buffers for two")
        return idle[0]

    def _copy(self, index: int, buffer: int) -> None:
        memory = self.memories[index]
        target, source = self.buffers[buffer][: memory.num_bytes], memory.memory[: memory.num_bytes]
        self.holds[buffer] = None  # in case the copy fails
        self.copied[buffer] = self.copy_stream.copy(target, source, self.free[buffer])
        self.holds[buffer] = index


@contextmanager
def double_buffered(
    blocks: Sequence[nn.Module],
    memories: Sequence[BlockMemory],
    device: torch.device,
    copy_stream: CopyStream | None = None,
) -> Iterator[None]:
    """Within this context, each block has its weights on the device while it computes.

    Args:
        blocks: in the order they are called; another order works, but waits for each copy. One may call another.
        memories: their weights in main memory. Blocks of several networks may share them.
    """
    if copy_stream is None:
        copy_stream = CudaCopyStream(device) if device.type == "cuda" else CopyStream()
    buffer = _DoubleBuffer(memories, device, copy_stream)

    def enter(index: int, block: nn.Module, _given: object) -> None:
        give_weights(block, buffer.enter(index))

    def leave(index: int, block: nn.Module, *_: object) -> None:
        give_weights(block, memories[index].host_weights)
        buffer.leave(index)

    with ExitStack() as stack:
        stack.callback(buffer.stop)
        for index, (block, memory) in enumerate(zip(blocks, memories, strict=True)):
            stack.callback(give_weights, block, memory.host_weights)  # an interrupted block has not left
            stack.enter_context(block.register_forward_pre_hook(partial(enter, index)))
            stack.enter_context(block.register_forward_hook(partial(leave, index), always_call=True))
        yield


# a network


class WeightStream:
    """Streams a network's blocks from main memory.

    Args:
        blocks_of: returns the blocks of the network, or of its twin on another device, in the order they are called.
        is_locked: see `BlockMemory`.
    """

    def __init__(self, blocks_of: BlocksOf, *, is_locked: bool) -> None:
        self.blocks_of, self.is_locked = blocks_of, is_locked
        self.memories: list[BlockMemory] = []

    def place(self, network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        """Move the blocks to main memory, and all other weights to a device. Nothing is copied twice."""
        self.pack(network, dtype)
        streamed = {id(weight) for block in self.blocks_of(network) for weight in weights_of(block)}
        for weight in weights_of(network):
            if id(weight) not in streamed:
                weight.data = weight.data.to(device, _kind(weight, dtype))

    @torch.inference_mode(False)  # tensors made in inference mode could never be trained
    def pack(self, network: nn.Module, dtype: torch.dtype | None = None) -> None:
        """Update the memory from the network's blocks; blocks whose weights are in it already are kept."""
        blocks = self.blocks_of(network)
        kept: list[BlockMemory | None] = [*self.memories] or [None] * len(blocks)
        self.memories = [
            memory if memory and memory.is_of(block, dtype) else BlockMemory(block, dtype, is_locked=self.is_locked)
            for memory, block in zip(kept, blocks, strict=True)
        ]

    def running(self, network: nn.Module, device: torch.device) -> AbstractContextManager[None]:
        """Within this context, the packed network, or a twin that shares its blocks' weights, computes on a device."""
        return double_buffered(self.blocks_of(network), self.memories, device)
