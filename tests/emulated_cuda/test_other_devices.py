"""A second card, two cards, and accelerators that are not CUDA."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from exvideo_core.estimate import speed
from exvideo_core.nn.out_of_memory import free_unused
from exvideo_core.runtime.memory import free_bytes

from .device import EmulatedCuda
from .mini import mini_cogvideox, mini_svd
from .patches import device_guard
from .pipelines import UNGUIDED, cogvideox_clip, is_orderly, svd_clip

XPU = torch.device("xpu")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_svd_on_the_second_card_takes_nothing_of_the_first(cuda: EmulatedCuda, stream: bool) -> None:
    pipe = mini_svd(cuda, device="cuda:1", stream=stream)
    svd_clip(cuda, pipe, frames=2, size=128, steps=1, **UNGUIDED)

    assert cuda.memory.peak["cuda:0"] == 0
    assert is_orderly(cuda)


def test_cogvideox_on_the_second_card_takes_nothing_of_the_first(cuda: EmulatedCuda) -> None:
    pipe = mini_cogvideox(cuda, device="cuda:1", text_encoder="t5")
    cogvideox_clip(cuda, pipe, frames=9, height=64, width=64, steps=1)

    assert cuda.memory.peak["cuda:0"] == 0
    assert is_orderly(cuda)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_two_cards_share_the_branches(cuda: EmulatedCuda, stream: bool) -> None:
    pipe = mini_cogvideox(cuda, device="cuda:0,cuda:1", stream=stream)
    cogvideox_clip(cuda, pipe, frames=9, height=64, width=64, steps=2)

    assert cuda.memory.peak["cuda:1"] > 0
    assert cuda.memory.now["cuda:1"] < 2**16  # only tables of positions are kept there
    assert is_orderly(cuda)


@pytest.fixture
def sage(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Devices of the calls of SageAttention 1.0.6: it launches kernels on the current one, wherever the tensors are."""
    called: list[str] = []

    def sageattn(q: Tensor, _k: Tensor, v: Tensor, tensor_layout: str) -> Tensor:
        assert tensor_layout == "HND"
        called.append(str(q.device))
        if q.device.index != torch.cuda.current_device():
            raise ValueError("Pointer argument (at 0) cannot be accessed from Triton (cpu tensor?)")
        return q.new_empty(*q.shape[:-1], v.shape[-1])

    package = ModuleType("sageattention")
    package.sageattn = sageattn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sageattention", package)
    return called


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_sage_computes_on_either_card(cuda: EmulatedCuda, sage: list[str], device: str) -> None:
    pipe = mini_cogvideox(cuda, device=device, attention="sage")
    # long enough that it is not left to PyTorch's attention
    cogvideox_clip(cuda, pipe, frames=9, height=320, width=320, steps=1, guidance_scale=1)

    assert set(sage) == {device}


# Intel


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls of PyTorch's functions for an Intel card, in either of their names."""
    made: list[str] = []
    torch.accelerator.is_available()  # else its first call asks for a card while it is patched
    for owner in (torch.accelerator, torch.xpu):
        monkeypatch.setattr(owner, "is_available", lambda: True)
        monkeypatch.setattr(owner, "synchronize", lambda *_: made.append("synchronize"))
        monkeypatch.setattr(owner, "empty_cache", lambda: made.append("empty_cache"))
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: XPU)
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda *_: (2**30, 2**34))
    monkeypatch.setattr(torch.xpu, "mem_get_info", lambda *_: (2**30, 2**34))
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.accelerator, name, lambda *_: 0)
        monkeypatch.setattr(torch.xpu, name, lambda *_: 0)
    monkeypatch.setattr(torch.xpu, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.xpu, "current_device", lambda: 0)
    return made


def test_speed_is_measured_with_waits_on_xpu(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(speed.BACKENDS, "auto", lambda q, _k, _v: q.clone())
    with device_guard("xpu"), FakeTensorMode():
        speed.probe.__wrapped__(XPU, torch.bfloat16)

    assert calls.count("synchronize") > 8


def test_unused_memory_is_released_on_xpu(calls: list[str]) -> None:
    free_unused()

    assert "empty_cache" in calls


@pytest.mark.usefixtures("calls")
def test_free_memory_is_known_on_xpu() -> None:
    assert free_bytes(XPU) == 2**30
