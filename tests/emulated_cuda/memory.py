"""Memory of the cards and of the host, as PyTorch's allocators hand it out."""

from __future__ import annotations

from collections import Counter

import torch

# Cards allocate in multiples of it (c10/cuda/CUDACachingAllocator.h, kMinBlockSize). That freed blocks may be too small
# or too scattered for what comes next is not emulated, so a real card needs a little more.
BLOCK = 512
# Working memory of a convolution whose input is channels last, an assumption: cuDNN's tensor-core kernels read and
# write that layout directly and take none to a few MiB, for split sums. Where the input is channels first, they convert
# it and the result, which is counted as it is.
CONVOLUTION_WORKSPACE = 2**23


class Memory:
    """What is allocated where: "cuda:0", "cuda:1", "cpu", and "locked" for page-locked memory of the host.

    Attributes:
        now, peak: bytes by place.
        peak_at: the operation that allocated when the peak was reached.
        refusals: how often a card had no memory.
        lockable: bytes that the host locks at most; Windows locks half of the memory.
    """

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.lockable = 2**60
        self.now: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.peak_at: dict[str, str] = {}
        self.refusals = 0

    def free(self, place: str) -> int:
        """Bytes left on a card."""
        return self.num_bytes - self.now[place]

    def take(self, place: str, num_bytes: int, what: str) -> int:
        """Allocate; returns the bytes that are taken.

        Raises:
            torch.OutOfMemoryError: the card has less.
            RuntimeError: the host may lock no more.
        """
        size = num_bytes
        if place.startswith("cuda"):
            size = -(-num_bytes // BLOCK) * BLOCK
            if size > self.free(place):
                self.refusals += 1
                raise torch.OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {size / 2**20:.0f} MiB. (emulated; {what}; "
                    f"{self.now[place] / 2**20:.0f} MiB of {self.num_bytes / 2**20:.0f} in use on {place})"
                )
        if place == "locked" and self.now[place] + size > self.lockable:
            raise RuntimeError("CUDA error: out of memory")  # what cudaHostAlloc says
        self.now[place] += size
        self._note(place, self.now[place], what)
        return size

    def give_back(self, place: str, size: int) -> None:
        self.now[place] -= size

    def touch(self, place: str, num_bytes: int, what: str) -> None:
        """Allocate for the time of one kernel, if there is as much; kernels that need less exist."""
        if num_bytes <= self.free(place):
            self._note(place, self.now[place] + num_bytes, what)

    def _note(self, place: str, size: int, what: str) -> None:
        if size > self.peak[place]:
            self.peak[place], self.peak_at[place] = size, what


def pinned_size(num_bytes: int) -> int:
    """Bytes that PyTorch locks for a pinned tensor: the next power of two, kept for later ones when it is freed.

    (aten/src/ATen/core/CachingHostAllocator.h; `cudaHostRegister` locks what it is given.)
    """
    return 1 << max(0, num_bytes - 1).bit_length()
