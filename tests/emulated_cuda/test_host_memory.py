"""Page-locked memory of the host: no more than needed, and a way without it."""

from __future__ import annotations

import logging
import mmap

import pytest
import torch

from exvideo_core.families.svd.lazy_frames import HostTensor

from .device import EmulatedCuda
from .mini import mini_svd
from .pipelines import UNGUIDED, is_orderly, svd_clip
from .test_streams import streamed_layers

HALF = torch.float16


def skip() -> torch.Tensor:
    """A skip of the first level, 128 frames of 512x512: 336 MB."""
    return torch.empty(128, 320, 64, 64, dtype=HALF, device="cuda")


def test_a_skip_is_on_the_host_and_not_on_the_card(cuda: EmulatedCuda) -> None:
    with torch.inference_mode():
        x = skip()
        size, offloaded = x.nbytes, HostTensor(x)
        del x

    assert cuda.memory.now["cuda:0"] == 0
    assert size <= cuda.memory.now["cpu"] <= size + 2 * mmap.PAGESIZE
    assert tuple(offloaded.shape) == (128, 320, 64, 64)


def test_skips_lock_what_they_take(cuda: EmulatedCuda) -> None:
    with torch.inference_mode():
        x = skip()
        HostTensor(x)

    assert cuda.memory.peak["locked"] < 1.05 * x.nbytes


def test_skips_are_offloaded_where_no_more_can_be_locked(cuda: EmulatedCuda) -> None:
    cuda.memory.lockable = 2**28
    with torch.inference_mode():
        assert HostTensor(skip())[0:2].is_cuda


def test_streamed_weights_lock_what_they_take(cuda: EmulatedCuda) -> None:
    streamed_layers(cuda)
    weights = 4 * (256 * 256 + 256) * HALF.itemsize

    assert weights <= cuda.memory.peak["locked"] <= weights + 4 * 4096


def test_streamed_weights_are_given_back(cuda: EmulatedCuda) -> None:
    streamed_layers(cuda)

    assert cuda.memory.now["locked"] == 0
    assert not cuda.runtime.registered


def test_weights_are_streamed_where_nothing_can_be_locked(cuda: EmulatedCuda, caplog: pytest.LogCaptureFixture) -> None:
    cuda.memory.lockable = 0
    with caplog.at_level(logging.WARNING):
        streamed_layers(cuda)

    assert "copies from and to the GPU wait" in caplog.text
    assert cuda.costs.pageable["H2D"] > 0


def test_svd_is_streamed_with_skips_on_the_host(cuda: EmulatedCuda) -> None:
    pipe = mini_svd(cuda, stream=True)
    svd_clip(cuda, pipe, frames=4, size=128, steps=1, **UNGUIDED)

    assert cuda.costs.copies["D2H"] > 2
    assert is_orderly(cuda)


def test_skips_of_the_next_call_use_the_same_memory(cuda: EmulatedCuda) -> None:
    with torch.inference_mode():
        first = HostTensor(skip())
        address = first._host.data_ptr()
        del first
        second, third = HostTensor(skip()), HostTensor(skip())

    assert second._host.data_ptr() == address != third._host.data_ptr()
    assert len(cuda.runtime.registered) == 2


def test_skips_of_another_size_free_the_memory_of_those_before(cuda: EmulatedCuda) -> None:
    with torch.inference_mode():
        HostTensor(skip())
        x = torch.empty(2, 320, 64, 64, dtype=HALF, device="cuda")
        HostTensor(x)

    assert cuda.memory.now["locked"] <= x.nbytes + 2 * mmap.PAGESIZE
