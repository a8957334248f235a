"""Races of streams: the product has none, and each of its waits is needed, as the emulation sees without it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from exvideo_core.families.svd.lazy_frames import HostTensor
from exvideo_core.runtime import weight_streaming
from exvideo_core.runtime.weight_streaming import WeightStream

from .device import EmulatedCuda
from .patches import placed
from .streams import Stream

HALF = torch.float16
Call = Callable[[EmulatedCuda], None]


def streamed_layers(cuda: EmulatedCuda) -> None:
    """Four small layers whose weights are streamed, run twice."""
    network = placed(cuda, lambda: nn.Sequential(*(nn.Linear(256, 256) for _ in range(4))), HALF, "cpu")
    stream = WeightStream(list, is_locked=True)
    stream.pack(network)
    with torch.inference_mode(), stream.running(network, torch.device("cuda:0")):
        x = torch.empty(8, 256, dtype=HALF, device="cuda")
        for _ in range(2):
            x = network(x)


def offloaded_skip(cuda: EmulatedCuda) -> None:
    """A skip that goes to the host and comes back, while its memory is used again."""
    with torch.inference_mode():
        x = torch.zeros(8, 16, 32, 32, dtype=HALF, device="cuda")
        skip = HostTensor(x)
        del x
        y = torch.ones(8, 16, 32, 32, dtype=HALF, device="cuda")
        y += skip[0:8]


@pytest.mark.parametrize("call", [streamed_layers, offloaded_skip])
def test_there_are_no_races(cuda: EmulatedCuda, call: Call) -> None:
    call(cuda)

    assert not cuda.races.seen
    assert not cuda.costs.pageable


@pytest.mark.parametrize("call", [streamed_layers, offloaded_skip])
def test_the_host_waits_for_no_copy(cuda: EmulatedCuda, call: Call) -> None:
    call(cuda)

    assert not cuda.costs.waits


def _named(value: object) -> str:
    return value if isinstance(value, str) else getattr(value, "__name__", "")


@pytest.mark.parametrize(
    ("call", "owner", "name"),
    [
        (streamed_layers, weight_streaming.CudaCopyStream, "wait"),
        (streamed_layers, Stream, "wait_event"),
        (offloaded_skip, torch.Tensor, "record_stream"),
        (offloaded_skip, Stream, "wait_stream"),
    ],
    ids=_named,
)
def test_without_a_wait_there_is_a_race(
    cuda: EmulatedCuda, monkeypatch: pytest.MonkeyPatch, call: Call, owner: type, name: str
) -> None:
    monkeypatch.setattr(owner, name, lambda *_: None)
    call(cuda)

    assert cuda.races.seen


def test_a_kernel_of_another_stream_needs_a_wait(cuda: EmulatedCuda) -> None:
    x = torch.ones(8, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        x.add_(1)
    assert cuda.races.seen

    cuda.races.seen.clear()
    torch.cuda.current_stream().wait_stream(side)
    x.add_(1)
    assert not cuda.races.seen


def test_a_host_that_reads_too_early_is_a_race(cuda: EmulatedCuda) -> None:
    x = torch.ones(2**24, device="cuda")
    host = torch.empty_like(x, device="cpu", pin_memory=True)
    host.copy_(x, non_blocking=True)
    host.clone()
    assert cuda.races.seen

    cuda.races.seen.clear()
    torch.cuda.synchronize()
    host.clone()
    assert not cuda.races.seen
