"""Copies and conversions: between host and cards, between cards, and within one.

A copy between host and card that is asked to be asynchronous is so only with page-locked memory; with pageable memory
CUDA copies by way of a buffer of its own, and the host waits ("API synchronization behavior" in the CUDA Runtime's
reference).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor

if TYPE_CHECKING:
    from .device import EmulatedCuda

_16_BITS = (torch.float16, torch.bfloat16)
_LARGE = 2**25  # bytes: smaller results on the CPU are real tensors, of zeros


def converted(device: EmulatedCuda, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """`_to_copy`: a copy in another dtype, layout or place."""
    source: Tensor = args[0]
    where = torch.device(kwargs.get("device") or source.device)
    if where.type == "cuda":
        where = device.streams.device_of(where)
    dtype, layout = kwargs.get("dtype") or source.dtype, kwargs.get("memory_format")
    if {source.device.type, where.type} == {"cpu", "cuda"}:
        result = _moved(device, source, dtype, where, layout)
        _over_the_bus(device, result, source, is_asynchronous=bool(kwargs.get("non_blocking")))
        return result
    result = device.like(source, dtype, where, layout)
    if source.device.type == "cuda" and source.device != where:
        device.allocated(result, "a copy from another card")
        _between_cards(device, result, source)
        return result
    device.queued(func, _fakes(args), result)
    if source.is_cuda and source.dtype in _16_BITS and dtype == torch.float32:
        device.costs.widened["all"] += result.nbytes
    return result


def copied(device: EmulatedCuda, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """`copy_`: into a tensor that is there."""
    target, source = args[:2]
    torch.broadcast_shapes(target.shape, source.shape)
    if {source.device.type, target.device.type} == {"cpu", "cuda"}:
        is_asynchronous = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking"))
        _over_the_bus(device, target, source, is_asynchronous=is_asynchronous)
    elif source.is_cuda and source.device != target.device:
        _between_cards(device, target, source)
    else:
        device.queued(func, _fakes(args), target)
    return target


def _fakes(args: tuple[Any, ...]) -> list[FakeTensor]:
    return [each for each in args if isinstance(each, FakeTensor)]


def _moved(device: EmulatedCuda, source: Tensor, dtype: torch.dtype, where: torch.device, layout: Any) -> Tensor:
    if where.type == "cpu" and source.numel() * dtype.itemsize <= _LARGE:
        return torch.zeros(source.shape, dtype=torch.float32).to(dtype)
    result = device.like(source, dtype, where, layout)
    device.allocated(result, f"a copy to {where.type}")
    return result


def _over_the_bus(device: EmulatedCuda, target: Tensor, source: Tensor, *, is_asynchronous: bool) -> None:
    direction, card, host = ("H2D", target, source) if target.is_cuda else ("D2H", source, target)
    stream = device.streams.current(card.device)
    stream.launch()
    device.costs.copies[direction] += 1
    device.costs.copied[direction] += source.nbytes
    for each, is_write in ((source, False), (target, True)):
        if isinstance(each, FakeTensor):
            device.races.access(device.storages.of(each).uses, stream, is_write=is_write, what=f"copy {direction}")
    if is_asynchronous and not device.is_locked(host):
        device.costs.pageable[direction] += 1
        is_asynchronous = False
    if not is_asynchronous:
        device.waited(card.device, direction)


def _between_cards(device: EmulatedCuda, target: Tensor, source: Tensor) -> None:
    """On the source's stream, with waits for the target's before and after (aten/src/ATen/native/cuda/Copy.cu)."""
    device.costs.copies["P2P"] += 1
    device.costs.copied["P2P"] += source.nbytes
    ours, theirs = device.streams.current(source.device), device.streams.current(target.device)
    ours.wait_stream(theirs)
    ours.launch()
    device.races.access(device.storages.of(source).uses, ours, is_write=False, what="copy P2P")
    device.races.access(device.storages.of(target).uses, ours, is_write=True, what="copy P2P")
    theirs.wait_stream(ours)
