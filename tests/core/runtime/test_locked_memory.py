"""Buffers of locked memory are used again, and freed when they no longer fit."""

from __future__ import annotations

import gc
import mmap

import pytest
import torch
from torch import Tensor

from exvideo_core.runtime.locked_memory import LockedBuffers


class Owner:
    """Something that a buffer belongs to; in a cycle, it is gone only when the collector comes."""

    def __init__(self, *, in_cycle: bool = False) -> None:
        self.itself = self if in_cycle else None


class Runtime:
    """The part of `torch.cuda.cudart()` that locks."""

    def __init__(self) -> None:
        self.locked: dict[int, int] = {}

    def cudaHostRegister(self, begin: int, size: int, _flags: int) -> int:  # noqa: N802  CUDA's name
        assert begin % mmap.PAGESIZE == size % mmap.PAGESIZE == 0
        self.locked[begin] = size
        return 0

    def cudaHostUnregister(self, begin: int) -> int:  # noqa: N802
        del self.locked[begin]
        return 0


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    runtime = Runtime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    return runtime


def image(rows: int) -> Tensor:
    return torch.empty(2, 3, rows, 5).contiguous(memory_format=torch.channels_last)


def test_a_buffer_is_laid_out_like_its_tensor_and_used_again(runtime: Runtime) -> None:
    buffers, owner = LockedBuffers(), Owner()
    first = buffers.empty_like(image(7), owner)
    address = first.data_ptr()
    assert (first.shape, first.stride(), first.dtype) == (image(7).shape, image(7).stride(), torch.float32)
    del first, owner

    assert buffers.empty_like(image(7), Owner()).data_ptr() == address
    assert list(runtime.locked) == [address]


def test_a_buffer_in_use_is_nobody_elses(runtime: Runtime) -> None:
    buffers, owners = LockedBuffers(), [Owner(), Owner()]
    one, other = (buffers.empty_like(image(7), owner) for owner in owners)

    assert one.data_ptr() != other.data_ptr()
    assert len(runtime.locked) == 2


def test_another_size_frees_what_nobody_uses(runtime: Runtime) -> None:
    buffers, owner, gone = LockedBuffers(), Owner(), Owner()
    used = buffers.empty_like(image(7), owner)
    buffers.empty_like(image(7), gone)
    del gone
    buffers.empty_like(image(3000), Owner())

    assert sorted(runtime.locked.values()) == [mmap.PAGESIZE, 88 * mmap.PAGESIZE]
    assert used.data_ptr() in runtime.locked


def test_an_owner_may_be_collected_while_a_buffer_is_taken(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    buffers = LockedBuffers()
    buffers.empty_like(image(7), Owner())
    buffers.empty_like(image(7), Owner(in_cycle=True))
    buffers.empty_like(image(7), Owner())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: gc.collect())
    buffers.empty_like(image(3000), Owner())  # would wait for itself if finalizers took a lock

    assert mmap.PAGESIZE in runtime.locked.values()  # of the cycle
    buffers.empty_like(image(6000), Owner())
    assert mmap.PAGESIZE not in runtime.locked.values()
