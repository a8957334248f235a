"""`emulated(card)`: within it, PyTorch has CUDA with such a card, twice."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from exvideo_core.families.svd import lazy_frames
from exvideo_core.nn.kernels import Mode, kernel_mode
from exvideo_core.runtime.locked_memory import LockedBuffers

from .attention import Attention
from .cards import H200, Card
from .device import EmulatedCuda
from .streams import Event, Stream

Network = TypeVar("Network", bound=nn.Module)
_NUM_CARDS = 2


@contextmanager
def emulated(card: Card = H200, kernels: Mode = "unchecked") -> Iterator[EmulatedCuda]:
    """Emulate two equal cards, "cuda:0" and "cuda:1", for this thread; kernels "off" are those of Windows."""
    device = EmulatedCuda(card)
    with ExitStack() as stack:
        stack.enter_context(kernel_mode(kernels))
        stack.enter_context(device_guard("cuda"))
        for owner, name, value in _patches(device):
            stack.enter_context(patch.object(owner, name, value))
        stack.enter_context(device)
        yield device


def placed(device: EmulatedCuda, build: Callable[[], Network], dtype: torch.dtype | None, where: str) -> Network:
    """A network in eval mode whose weights are emulated, on "cuda:0" or the like, or on "cpu"."""
    with _disable_current_modes():
        with torch.device("meta"):
            network = build()
        network = (network.to(dtype) if dtype else network).eval()
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(device.weight(weight.data, where), requires_grad=False)
    emulate_buffers(device, network, where)
    return network


def emulate_buffers(device: EmulatedCuda, network: nn.Module, where: str) -> None:
    """Replace the buffers by emulated ones: a plain tensor cannot be given memory on an emulated card later."""
    for module in network.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and not isinstance(buffer, FakeTensor):
                module._buffers[name] = device.weight(torch.empty_like(buffer, device="meta"), where)


def why_not() -> str | None:
    """Why there can be no emulation here; None if it can."""
    if torch.backends.cuda.is_built() and torch.cuda.is_available():
        return "there is a card"
    if not torch.backends.cuda.is_built() and not _LIBRARY.exists():
        return f"PyTorch is built in another way: no {_LIBRARY.name}"
    return None


def _patches(device: EmulatedCuda) -> list[tuple[Any, str, Any]]:
    """What is patched: owner, name and value."""
    card, memory, streams = device.card, device.memory, device.streams

    def in_use(where: Any = None) -> int:
        return memory.now[str(streams.device_of(where))]

    def info(where: Any = None) -> tuple[int, int]:
        return memory.free(str(streams.device_of(where))), card.num_bytes

    def synchronize(where: Any = None) -> None:
        device.waited(streams.device_of(where), "synchronize")

    cuda: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: _NUM_CARDS,
        "current_device": lambda: streams.current_index,
        "get_device_name": lambda *_: card.name,
        "get_device_capability": lambda *_: card.capability,
        "is_bf16_supported": lambda including_emulation=True: including_emulation or card.has_bfloat16,
        "mem_get_info": info,
        "get_device_properties": lambda *_: SimpleNamespace(name=card.name, total_memory=card.num_bytes),
        "memory_reserved": in_use,
        "memory_allocated": in_use,
        "empty_cache": lambda: None,
        "synchronize": synchronize,
        "Stream": type("Stream", (Stream,), {"__init__": partialmethod(Stream.__init__, streams)}),
        "Event": type("Event", (Event,), {"__init__": partialmethod(Event.__init__, streams)}),
        "stream": streams.entering,
        "device": streams.on_device,
        "current_stream": streams.current,
        "cudart": lambda: device.runtime,
    }
    return [
        *((torch.cuda, name, value) for name, value in cuda.items()),
        (torch.version, "hip", "6.4" if card.is_rocm else None),
        (F, "scaled_dot_product_attention", Attention(device, F.scaled_dot_product_attention)),
        (lazy_frames, "_BUFFERS", LockedBuffers()),  # none of another emulation
        *_tensor_patches(device),
    ]


def _tensor_patches(device: EmulatedCuda) -> list[tuple[Any, str, Any]]:
    plain_contiguous, plain_data = torch.Tensor.contiguous, torch._C.TensorBase.data

    def contiguous(x: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
        if not isinstance(x, FakeTensor):
            return plain_contiguous(x, memory_format=memory_format)
        return x if x.is_contiguous(memory_format=memory_format) else x.clone(memory_format=memory_format)

    def set_data(x: FakeTensor, value: Tensor) -> None:
        plain_data.__set__(x, value)
        if isinstance(value, FakeTensor):
            x.fake_device = value.fake_device

    def record_stream(x: Tensor, stream: Stream) -> None:
        device.storages.of(x).uses.recorded.add(stream.id)

    return [
        (torch.Tensor, "contiguous", contiguous),  # FakeTensorMode's knows no layouts
        (torch.Tensor, "record_stream", record_stream),
        (FakeTensor, "data", property(lambda x: x.detach(), set_data)),
        (FakeTensor, "data_ptr", lambda x: device.storages.address(x)),
    ]


# PyTorch asks a device's guard for the current device before most operations, and a build without CUDA has none for it.
# The meta device's guard does nothing, which is right here. (A build with CUDA takes that one by itself if there is no
# card.) Numbers are those of c10/core/DeviceType.h, the symbol is of c10/core/impl/DeviceGuardImplInterface.h.
_NUMBERS = {"cuda": 1, "xpu": 12, "mps": 13}
_META = 14
_REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"
_LIBRARY = Path(torch.__file__).parent / "lib" / ("libc10.dylib" if sys.platform == "darwin" else "libc10.so")


@contextmanager
def device_guard(kind: str) -> Iterator[None]:
    """Let there be tensors of a kind of device, if PyTorch was built without it, in FakeTensorMode."""
    if kind == "cuda" and torch.backends.cuda.is_built():
        torch._C._ensureCUDADeviceGuardSet()
        yield
        return
    guards = (ctypes.c_void_p * (_META + 1)).in_dll(ctypes.CDLL(str(_LIBRARY)), _REGISTRY)
    number = _NUMBERS[kind]
    before = guards[number]
    guards[number] = before or guards[_META]
    try:
        yield
    finally:
        guards[number] = before
