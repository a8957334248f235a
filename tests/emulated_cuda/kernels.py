"""Kernels of CUDA that refuse more, or lay out their results in another way, than the meta device's.

Sources are files of PyTorch: aten/src/ATen/native/ConvUtils.h and cudnn/Conv_v8.cpp, native/cuda/group_norm_kernel.cu
and group_norm.cpp, native/cuda/ScaledBlas.cpp (Blas.cpp before 2.9).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .memory import CONVOLUTION_WORKSPACE

if TYPE_CHECKING:
    from .device import EmulatedCuda

_16_BITS = (torch.float16, torch.bfloat16)
_FEW = 4  # input channels up to which a layout does not matter
_MOST = 2**31  # elements of a tensor that kernels index in 32 bits
# axes from the fastest to the slowest, in channels-last memory
_ORDER = {4: (1, 3, 2, 0), 5: (1, 4, 3, 2, 0)}


def convolution(
    device: EmulatedCuda,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *_transposed_and_groups: Any,
) -> Tensor:
    """cuDNN's: the result is channels last if the input or the weight is, and what is not is converted first."""
    _of_one_dtype(x, weight, bias)
    _on_one_device(x, weight, bias)
    if device.convolution_fails(x):
        raise RuntimeError("GET was unable to find an engine to execute this computation")
    if x.dtype == torch.bfloat16 and not device.card.has_bfloat16:
        raise RuntimeError("GET was unable to find an engine to execute this computation")
    sides = [
        (side + 2 * pad - spread * (size - 1) - 1) // step + 1
        for side, pad, spread, size, step in zip(x.shape[2:], padding, dilation, weight.shape[2:], stride, strict=True)
    ]
    shape = (len(x), len(weight), *sides)
    is_last = suggests_channels_last(x) or suggests_channels_last(weight)
    layout = (torch.channels_last if weight.ndim == 4 else torch.channels_last_3d) if is_last else None
    result = _empty(device, shape, x, layout or torch.contiguous_format)
    workspace = CONVOLUTION_WORKSPACE
    seen, relaid = device.costs.convolutions, device.costs.relaid
    if layout and not weight.is_contiguous(memory_format=layout) and weight[0].numel() > weight.shape[1]:
        seen["weights re-laid"] += 1
        relaid["weights"] += weight.nbytes
        workspace += weight.nbytes
    if layout and not x.is_contiguous(memory_format=layout):
        seen["inputs re-laid"] += 1
        relaid["inputs"] += x.nbytes
        workspace += x.nbytes
    if not layout and x.shape[1] > _FEW:
        seen["channels first"] += 1
        workspace += x.nbytes + result.nbytes if x.dtype in _16_BITS else 0
    if max(x.numel(), math.prod(shape)) >= _MOST:
        seen["too large"] += 1
    device.memory.touch(str(x.device), result.nbytes + workspace, "convolution")
    return result


def native_group_norm(
    device: EmulatedCuda,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    batch: int,
    _channels: int,
    _positions: int,
    groups: int,
    _eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Its CUDA kernel reads and writes channels first only, whatever the input was."""
    _on_one_device(x, weight, bias)
    if not x.is_contiguous():
        device.costs.relaid["inputs of group norms"] += x.nbytes
    is_mixed = x.dtype in _16_BITS and weight is not None and weight.dtype == torch.float32
    dtype = torch.float32 if is_mixed else x.dtype
    statistics = (_empty(device, (batch, groups), x, torch.contiguous_format, dtype) for _ in range(2))
    return _empty(device, x.shape, x, torch.contiguous_format), *statistics


def scaled_mm(
    device: EmulatedCuda,
    a: Tensor,
    b: Tensor,
    scale_a: Tensor,
    scale_b: Tensor,
    _bias: Tensor | None = None,
    _scale_result: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    **_fast: bool,
) -> Tensor:
    """The product with a scale for each row of `a` and column of `b`."""
    if device.card.capability < (8, 9) or not device.card.scales_rows:
        raise RuntimeError(
            "torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9, or ROCm MI300+"
        )
    problems = {
        f"mat1 must be row_major, its strides are {a.stride()}": a.stride(1) == 1 and a.stride(0) >= a.shape[1],
        f"mat2 must be col_major, its strides are {b.stride()}": b.stride(0) == 1 and b.stride(1) >= b.shape[0],
        f"sides must be multiples of 16: {a.shape} {b.shape}": not (a.shape[1] % 16 or b.shape[1] % 16),
        f"scales are {scale_a.shape} {scale_b.shape}": tuple(scale_a.shape) == (a.shape[0], 1)
        and tuple(scale_b.shape) == (1, b.shape[1]),
        "scales must be contiguous float32": all(
            each.dtype == torch.float32 and each.is_contiguous() for each in (scale_a, scale_b)
        ),
        "scales of rows give bfloat16 only": out_dtype == torch.bfloat16,
    }
    for problem, is_fine in problems.items():
        if not is_fine:
            raise RuntimeError(f"_scaled_mm: {problem}")
    return _empty(device, (a.shape[0], b.shape[1]), a, torch.contiguous_format, out_dtype)


KERNELS: Mapping[str, Callable[..., Any]] = {
    "convolution": convolution,
    "native_group_norm": native_group_norm,
    "_scaled_mm": scaled_mm,
}


def suggests_channels_last(x: Tensor) -> bool:
    """Whether PyTorch takes strides for channels last (c10/core/MemoryFormat.h, is_channels_last_strides_*)."""
    order = _ORDER.get(x.ndim)
    if order is None or x.stride(1) == 0:
        return False
    least = 0
    for axis in order:
        if x.shape[axis] == 0 or x.stride(axis) < least:
            return False
        if axis == 0 and least == x.stride(1):
            return False
        least = x.stride(axis) * max(1, x.shape[axis])
    return True


def _empty(
    device: EmulatedCuda,
    shape: Sequence[int],
    like: Tensor,
    layout: torch.memory_format,
    dtype: torch.dtype | None = None,
) -> Tensor:
    meta = torch.empty(shape, dtype=dtype or like.dtype, device="meta", memory_format=layout)
    return device.fake(meta, like.device)


def _of_one_dtype(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if any(each is not None and each.dtype != x.dtype for each in (weight, bias)):
        raise RuntimeError(f"Input type ({x.dtype}) and weight type ({weight.dtype}) or bias type should be the same")


def _on_one_device(x: Tensor, *others: Tensor | None) -> None:
    if any(each is not None and each.device != x.device for each in others):
        raise RuntimeError(f"Expected all tensors to be on the same device, {x.device}")
