"""Page-locked main memory, from and to which CUDA copies while it computes.

PyTorch's own (`pin_memory`) rounds each tensor up to a power of two, keeps it for good, and is an error where the
system locks no more: Windows locks half of the memory at most.
"""

from __future__ import annotations

import logging
import mmap
import threading
import weakref
from contextlib import suppress
from queue import Empty, SimpleQueue

import torch
from torch import Tensor

from ..nn.out_of_memory import forget_error

log = logging.getLogger(__name__)

_PORTABLE = 1  # cudaHostRegisterPortable: page-locked for all devices


def whole_pages(num_bytes: int) -> Tensor:
    """Memory that shares no page with other tensors, because a page can be locked only once; a little more, uint8."""
    page, size = mmap.PAGESIZE, rounded_to_pages(num_bytes)
    memory = torch.empty(size + page, dtype=torch.uint8)
    begin = -memory.data_ptr() % page
    return memory[begin : begin + size]


def rounded_to_pages(num_bytes: int) -> int:
    """Bytes of the pages that hold so many bytes."""
    return -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE


def lock(memory: Tensor) -> None:
    """Page-lock whole pages until they are freed; where that is refused, they stay as they are, with a warning."""
    cuda = torch.cuda.cudart()
    begin = memory.data_ptr()
    code = int(cuda.cudaHostRegister(begin, memory.numel(), _PORTABLE))
    if code:
        log.warning("cannot page-lock %d bytes (CUDA error %d): copies from and to the GPU wait", memory.numel(), code)
        forget_error()
        return
    weakref.finalize(memory, cuda.cudaHostUnregister, begin).atexit = False


class LockedBuffers:
    """Locked buffers that later tensors of the same size use again, since locking takes as long as copying.

    Those of a device that are not in use are freed when it needs another size.
    """

    def __init__(self) -> None:
        self._free: dict[torch.device, dict[int, list[Tensor]]] = {}
        self._guard = threading.Lock()  # each GPU may run a branch in its own thread
        # A queue and not the guard: a finalizer may run anywhere, also in the thread that has the guard.
        self._returned: SimpleQueue[tuple[torch.device, Tensor]] = SimpleQueue()

    def empty_like(self, x: Tensor, owner: object) -> Tensor:
        """An empty tensor like x in a locked buffer, which is free again once `owner` is gone.

        Copies to and from the buffer must be in the order of the current stream of x's device.
        """
        buffer = self._take(x.device, x.nbytes)
        if buffer is None:
            buffer = whole_pages(x.nbytes)
            lock(buffer)
        weakref.finalize(owner, self._returned.put, (x.device, buffer)).atexit = False
        like = torch.empty_like(x, device="meta")
        return buffer[: x.nbytes].view(x.dtype).as_strided(like.shape, like.stride())

    def _take(self, device: torch.device, num_bytes: int) -> Tensor | None:
        size = rounded_to_pages(num_bytes)
        with self._guard:
            with suppress(Empty):
                while True:
                    owner, buffer = self._returned.get_nowait()
                    self._free.setdefault(owner, {}).setdefault(buffer.numel(), []).append(buffer)
            free = self._free.get(device, {})
            if free.get(size):
                return free[size].pop()
            if any(free.values()):
                torch.cuda.synchronize(device)  # copies from them may be under way
                free.clear()
        return None
