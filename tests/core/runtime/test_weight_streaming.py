"""Weights that come to the device a block at a time: the same bits, two blocks at most, nothing copied too early."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from narrow_svd import noise
from torch import Tensor, nn

from exvideo_core.runtime import locked_memory, weight_streaming as streaming
from exvideo_core.runtime.weight_streaming import BlockMemory, WeightStream, double_buffered, weights_of

CPU = torch.device("cpu")


class StopError(Exception):
    """What a block raises."""


class Block(nn.Module):
    """Weights of several kinds, and a word with the lane while they are used."""

    def __init__(self, size: int, copy_stream: CopyStream) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        self.scale = nn.Parameter(noise(1))
        self.register_buffer("offset", noise(size))
        self.copy_stream = [copy_stream]  # not to be seen by copies of the module

    def forward(self, x: Tensor) -> Tensor:
        self.copy_stream[0].computes_with(weights_of(self)[0])
        return torch.tanh(self.linear(x)) * self.scale + self.offset


class CopyStream:
    """A device that is late with all it is told, and a copy that is early: it is done as soon as it may be.

    Events are numbers of what was told to compute.
    """

    def __init__(self) -> None:
        self.told = 0
        self.users: dict[int, int] = {}  # memory -> the last event of computing with what is there
        self.copies: dict[int, tuple[Tensor, Tensor]] = {}  # not yet waited for

    def computes_with(self, weight: Tensor) -> None:
        self.place = weight.data_ptr()
        self.users[self.place] = self.told + 1

    def copy(self, target: Tensor, source: Tensor, after: int) -> int:
        assert after >= self.users.get(target.data_ptr(), 0), "copied over weights that are still computed with"
        number = len(self.copies)
        self.copies[number] = target, source
        target.fill_(255)  # NaN, until it is there
        return number

    def wait(self, event: int) -> None:
        target, source = self.copies[event]
        target.copy_(source)

    def mark(self) -> int:
        self.told += 1
        return self.told


@pytest.fixture
def copy_stream() -> CopyStream:
    return CopyStream()


@pytest.fixture
def blocks(copy_stream: CopyStream) -> list[Block]:
    return [Block(8, copy_stream).requires_grad_(False) for _ in range(5)]


def memories(blocks: list[Block]) -> list[BlockMemory]:
    return [BlockMemory(block, None, is_locked=False) for block in blocks]


def chain(blocks: list[Block], x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Memory that blocks computed with."""
    seen: set[int] = set()
    original = streaming.give_weights

    def give(block: nn.Module, values: Any) -> None:
        original(block, values)
        seen.add(values[0].data_ptr())

    monkeypatch.setattr(streaming, "give_weights", give)
    return seen


def test_the_result_is_the_same_bits(blocks: list[Block], copy_stream: CopyStream) -> None:
    x = noise(3, 8)
    expected = chain(blocks, x)

    with double_buffered(blocks, memories(blocks), CPU, copy_stream):
        found = [chain(blocks, x) for _ in range(3)]

    assert all(torch.equal(result, expected) for result in found)
    assert torch.equal(chain(blocks, x), expected)


def test_weights_whose_copy_failed_are_copied_again(blocks: list[Block], copy_stream: CopyStream) -> None:
    x = noise(3, 8)
    expected, copy = chain(blocks, x), copy_stream.copy

    def fail_once(*given: Any) -> int:
        copy_stream.copy = copy  # type: ignore[method-assign]
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with double_buffered(blocks, memories(blocks), CPU, copy_stream):
        chain(blocks, x)
        copy_stream.copy = fail_once  # type: ignore[method-assign]
        with pytest.raises(torch.cuda.OutOfMemoryError):
            chain(blocks, x)

        assert torch.equal(chain(blocks, x), expected)


def test_two_blocks_are_on_the_device_at_most(blocks: list[Block], copy_stream: CopyStream, places: set[int]) -> None:
    packed = memories(blocks)
    host_weights = {memory.host_weights[0].data_ptr() for memory in packed}

    with double_buffered(blocks, packed, CPU, copy_stream):
        for _ in range(3):
            chain(blocks, noise(3, 8))
        away = [block for block in blocks if weights_of(block)[0].data_ptr() not in host_weights]

    assert len(places - host_weights) == 2
    assert not away  # between calls, all are at home


def test_each_block_comes_once_a_pass_and_ahead_of_its_call(blocks: list[Block], copy_stream: CopyStream) -> None:
    with double_buffered(blocks, memories(blocks), CPU, copy_stream):
        for done in range(1, 4):
            chain(blocks, noise(3, 8))
            assert len(copy_stream.copies) == 5 * done + 1  # the first of the next pass is on its way


def test_another_order_works(blocks: list[Block], copy_stream: CopyStream) -> None:
    order = [blocks[i] for i in (3, 3, 0, 4, 1, 0, 2)]
    expected = chain(order, noise(3, 8))

    with double_buffered(blocks, memories(blocks), CPU, copy_stream):
        assert torch.equal(chain(order, noise(3, 8)), expected)


def nested(blocks: list[Block], x: Tensor, inner: Sequence[int] = (1, 1)) -> Tensor:
    """The third block calls others in the middle of its own work."""
    first, _, third, *later = blocks

    def call(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (torch.stack([blocks[index](given[0]) for index in inner]).sum(0),)

    hook = third.linear.register_forward_pre_hook(call)
    result = chain([first, third, *later], x)
    hook.remove()
    return result


@pytest.mark.parametrize("inner", [(1, 1), (0,), (4, 1), (3, 0, 3)])
def test_a_block_may_call_others(blocks: list[Block], copy_stream: CopyStream, inner: Sequence[int]) -> None:
    expected = nested(blocks, noise(3, 8), inner)

    with double_buffered(blocks, memories(blocks), CPU, copy_stream):
        assert all(torch.equal(nested(blocks, noise(3, 8), inner), expected) for _ in range(3))


def test_three_at_a_time_are_refused(blocks: list[Block], copy_stream: CopyStream) -> None:
    blocks[1].linear.register_forward_pre_hook(lambda _, given: (blocks[0](given[0]),))

    with (
        double_buffered(blocks, memories(blocks), CPU, copy_stream),
        pytest.raises(RuntimeError, match="buffers for two"),
    ):
        nested(blocks, noise(3, 8))


@pytest.mark.parametrize("count", [1, 2])
def test_few_blocks_stay(blocks: list[Block], copy_stream: CopyStream, count: int) -> None:
    few = blocks[:count]
    expected = chain(few, noise(3, 8))

    with double_buffered(few, memories(few), CPU, copy_stream):
        assert all(torch.equal(chain(few, noise(3, 8)), expected) for _ in range(3))

    assert len(copy_stream.copies) == count


@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt])
def test_after_an_error_all_weights_are_at_home(
    blocks: list[Block], copy_stream: CopyStream, error: type[BaseException]
) -> None:
    packed = memories(blocks)
    expected = chain(blocks, noise(3, 8))

    def stop(*_: object) -> None:
        raise error

    hook = blocks[2].linear.register_forward_hook(stop)
    with pytest.raises(error), double_buffered(blocks, packed, CPU, copy_stream):
        chain(blocks, noise(3, 8))
    hook.remove()

    assert all(memory.is_of(block, None) for memory, block in zip(packed, blocks, strict=True))
    assert torch.equal(chain(blocks, noise(3, 8)), expected)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in blocks)


# main memory


def test_weights_keep_their_values_layout_and_kind(copy_stream: CopyStream) -> None:
    module = nn.Sequential(nn.Conv2d(8, 4, 3).to(memory_format=torch.channels_last), nn.BatchNorm2d(4), nn.Linear(4, 3))
    before = [weight.clone() for weight in weights_of(module)]
    strides = [weight.stride() for weight in weights_of(module)]
    memory = BlockMemory(module, torch.bfloat16, is_locked=False)

    assert [weight.stride() for weight in weights_of(module)] == strides
    for weight, old in zip(weights_of(module), before, strict=True):
        kind = torch.bfloat16 if old.is_floating_point() else torch.int64
        assert weight.dtype == kind
        assert torch.equal(weight, old.to(kind))
        start = memory.memory.data_ptr()
        assert start <= weight.data_ptr() < start + memory.num_bytes  # the file they came from is let go


class Cudart:
    """CUDA's runtime, as far as locked pages go."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.locked: dict[int, int] = {}

    def cudaHostRegister(self, begin: int, size: int, flags: int) -> int:  # noqa: N802
        assert flags == 1
        if not self.code:
            self.locked[begin] = size
        return self.code

    def cudaHostUnregister(self, begin: int) -> int:  # noqa: N802
        del self.locked[begin]
        return 0


def test_pages_are_locked_one_by_one_and_released(monkeypatch: pytest.MonkeyPatch, blocks: list[Block]) -> None:
    cuda = Cudart()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: cuda)
    packed = [BlockMemory(block, None, is_locked=True) for block in blocks]
    pages = sorted((begin, begin + size) for begin, size in cuda.locked.items())

    assert len(pages) == 5
    assert all(begin % 4096 == end % 4096 == 0 for begin, end in pages)
    assert all(first[1] <= second[0] for first, second in pairwise(pages))
    del packed
    gc.collect()
    assert not cuda.locked


def test_pages_that_cannot_be_locked_are_said(
    monkeypatch: pytest.MonkeyPatch, blocks: list[Block], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "cudart", lambda: Cudart(code=2))
    monkeypatch.setattr(locked_memory, "forget_error", lambda: None)
    with caplog.at_level(logging.WARNING):
        BlockMemory(blocks[0], None, is_locked=True)

    assert "cannot page-lock 4096 bytes (CUDA error 2)" in caplog.text


def test_what_is_in_no_block_is_on_the_device(copy_stream: CopyStream, monkeypatch: pytest.MonkeyPatch) -> None:
    network, moves = nn.Sequential(nn.Linear(3, 3), Block(8, copy_stream)), []
    move = Tensor.to
    monkeypatch.setattr(
        Tensor, "to", lambda weight, *where: moves.append((weight.shape, where)) or move(weight, *where)
    )
    WeightStream(lambda net: [net[1]], is_locked=False).place(network, CPU, torch.float16)

    assert moves == [(weight.shape, (CPU, torch.float16)) for weight in weights_of(network[0])]
    assert {weight.dtype for weight in weights_of(network)} == {torch.float16}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the order of CUDA's streams")
def test_on_cuda_large_blocks_arrive_in_time() -> None:
    device, size = torch.device("cuda"), 4096
    network = nn.Sequential(*[nn.Linear(size, size, dtype=torch.float16) for _ in range(5)]).requires_grad_(False)
    stream = WeightStream(list, is_locked=True)
    stream.pack(network)
    x = torch.randn(8192, size, dtype=torch.float16, device=device)
    with torch.inference_mode(), stream.running(network, device):
        found = [network(x) for _ in range(10)]
    expected = network.to(device)(x)

    assert all(torch.equal(result, expected) for result in found)
