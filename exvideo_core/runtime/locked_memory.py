"""Page-locked main memory, from and to which CUDA copies while it computes.

PyTorch's own (`pin_memory`) rounds each tensor up to a power of two, keeps it for good, and is an error where the
system locks no more: Windows locks half of the memory at most.
"""

from __future__ import annotations

import logging
import mmap
import threading
import weakref
from collections import defaultdict

import torch
from torch import Tensor

from ..nn.out_of_memory import forget_error

log = logging.getLogger(__name__)

_PORTABLE = 1  # cudaHostRegisterPortable: page-locked for all devices


def whole_pages(num_bytes: int) -> Tensor:
    """Memory that shares no page with other tensors, because a page can be locked only once; a little more, uint8."""
    page = mmap.PAGESIZE
    memory = torch.empty((num_bytes // page + 2) * page, dtype=torch.uint8)
    begin = -memory.data_ptr() % page
    return memory[begin : begin + -(-num_bytes // page) * page]


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

    Those that are not in use are freed when another size is needed: by then, another clip is made.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[torch.device, int], list[Tensor]] = defaultdict(list)
        self._guard = threading.Lock()  # each GPU may run a branch in its own thread

    def empty_like(self, x: Tensor, owner: object) -> Tensor:
        """An empty tensor like x in a locked buffer, which is free again once `owner` is gone.

        Copies to and from the buffer must be in the order of the current stream of x's device.
        """
        key = x.device, x.nbytes
        with self._guard:
            others = [buffers for known, buffers in self._free.items() if known != key and buffers]
            buffer = self._free[key].pop() if self._free[key] else None
            if buffer is None and others:
                torch.cuda.synchronize(x.device)  # copies from them may be under way
                for buffers in others:
                    buffers.clear()
        if buffer is None:
            buffer = whole_pages(x.nbytes)
            lock(buffer)
        weakref.finalize(owner, self._give_back, key, buffer).atexit = False
        like = torch.empty_like(x, device="meta")
        return buffer[: x.nbytes].view(x.dtype).as_strided(like.shape, like.stride())

    def _give_back(self, key: tuple[torch.device, int], buffer: Tensor) -> None:
        with self._guard:
            self._free[key].append(buffer)
