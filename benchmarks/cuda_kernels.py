"""The kernels that CUDA would launch in one call of a network, with the operations and bytes of each. Needs no GPU.

The call runs on the meta device at its real size, and its tensors are taken for CUDA's. A kernel reads its inputs and
writes its result once. Where PyTorch 2.13 and cuDNN do more, it is charged (read in ATen/native):

- a convolution adds its bias in a kernel of its own;
- it turns a weight that is not channels-last at every call, if its input is (`conv weight layout`);
- in 16 bits and channels first it turns input, weight and result, because tensor cores' kernels are channels-last
  (`conv layout`), and a convolution whose input or weight is channels-last gives a channels-last result;
- group norm copies a channels-last input to channels first, reads it twice and writes it once;
- attention of 4 axes is one kernel; of any other number it is PyTorch's `math`, in float32, kernel by kernel;
- `x[span] += y` stores into the view that it was taken from: the second copy returns at once;
- a kernel of this project (`exvideo::`) is one launch.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ATTENTION, SHORT_ATTENTION, CONVOLUTION, PRODUCT = "attention", "short attention", "convolution", "product"
TRITON_PRODUCT = "product in Triton"
COMPUTE = (ATTENTION, SHORT_ATTENTION, CONVOLUTION, PRODUCT, TRITON_PRODUCT)
SHORT = 1024  # keys; kernels reach less of their rate below

_ATEN = torch.ops.aten
_FREE = {
    _ATEN.empty,
    _ATEN.empty_like,
    _ATEN.empty_strided,
    _ATEN.new_empty,
    _ATEN.new_empty_strided,
    _ATEN._unsafe_view,
}
_COPIES = {
    _ATEN.copy_, _ATEN.clone, _ATEN.cat, _ATEN.stack, _ATEN.index_select, _ATEN.index, _ATEN.repeat,
    _ATEN.repeat_interleave, _ATEN.constant_pad_nd, _ATEN.reflection_pad3d, _ATEN.upsample_nearest2d,
    _ATEN.upsample_nearest3d,
}  # fmt: skip
_GATHERS = {_ATEN.index_select, _ATEN.index, _ATEN.embedding, _ATEN.gather}
_OVERWRITES = {_ATEN.copy_, _ATEN.fill_, _ATEN.zero_}
_HALVES = (torch.float16, torch.bfloat16)
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Kernel:
    """Launches of one kind.

    Attributes:
        kind: one of `COMPUTE`, or what else it does.
        flops: a multiply-add is two.
        num_bytes: read and written.
        launches: how many.
        product: rows and columns of the result, and the length of its sums; None where it is no matrix product.
        where: the two innermost functions that called it.
    """

    kind: str
    flops: int
    num_bytes: int
    launches: int = 1
    product: tuple[int, int, int] | None = None
    where: str = ""


def kernels_of(call: Callable[[], object]) -> list[Kernel]:
    """Kernels of a call whose tensors are on the meta device, in order."""
    walk = _Walk()
    with torch.no_grad(), _meta_as_cuda(), torch.device("meta"), _Attention(walk), walk:
        call()
    return walk.kernels


@contextmanager
def _meta_as_cuda() -> Iterator[None]:
    """Let `Tensor.is_cuda`, by which code chooses its layouts and kernels, be true on the meta device."""
    torch.Tensor.is_cuda = property(lambda self: self.is_meta)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del torch.Tensor.is_cuda


class _Walk(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []

    def add(
        self, kind: str, flops: int, num_bytes: int, launches: int = 1, product: tuple[int, int, int] | None = None
    ) -> None:
        self.kernels.append(Kernel(kind, flops, num_bytes, launches, product, _where()))

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        is_view = any(each.alias_info and not each.alias_info.is_write for each in func._schema.returns)
        if is_view or packet in _FREE or (packet is _ATEN.copy_ and _is_same_view(*args[:2])):
            return func(*args, **kwargs)
        if packet is _ATEN.convolution:
            return self._convolution(func, args, kwargs)
        result = func(*args, **kwargs)
        if packet is _ATEN.native_group_norm:
            return self._group_norm(args, result)
        # `out=` is written and not read
        read = args, {name: value for name, value in kwargs.items() if name != "out"}
        given = [each for each in tree_leaves(read) if isinstance(each, Tensor)]
        made = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        # GELU is the last step of that product
        if (counted := _ATEN.addmm if packet is _ATEN._addmm_activation else packet) in flop_registry:
            out = made[0]
            flops = flop_registry[counted](*args, **kwargs, out_val=result)
            rows, columns = out.numel() // out.shape[-1], out.shape[-1]
            shape = rows, columns, flops // max(1, 2 * out.numel())
            self.add(PRODUCT, flops, sum(map(_size, given + made)), product=shape)
        elif packet is torch.ops.exvideo.gated_product:
            x_RC, weight_GC, _ = given
            rows, channels = x_RC.shape
            flops = 2 * rows * channels * len(weight_GC)
            self.add(TRITON_PRODUCT, flops, sum(map(_size, given + made)), product=(rows, len(weight_GC), channels))
        elif packet is _ATEN.native_layer_norm:
            self._laid_out(given[0])
            self.add("layer norm", 0, 2 * _size(given[0]))
        elif num_bytes := _traffic(packet, given, made):
            self.add(_kind(func), 0, num_bytes)
        return result

    def _convolution(self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        x, weight, bias = args[:3]
        out: Tensor = func(*args, **kwargs)
        flops = flop_registry[_ATEN.convolution](*args, **kwargs, out_val=out)
        layout = _CHANNELS_LAST.get(x.ndim)
        is_last = layout is not None and (_is_channels_last(x) or _is_channels_last(weight))
        if layout:
            out = torch.empty_like(out, memory_format=layout if is_last else torch.contiguous_format)
        num_bytes = _size(x) + _size(weight) + _size(out)
        rows = out.numel() // out.shape[1]
        self.add(CONVOLUTION, flops, num_bytes, product=(rows, out.shape[1], flops // max(1, 2 * out.numel())))
        is_pointwise = math.prod(weight.shape[2:]) == 1
        if is_last:
            if not (is_pointwise or weight.shape[1] == 1 or weight.is_contiguous(memory_format=layout)):
                self.add("conv weight layout", 0, 2 * _size(weight))
            if not x.is_contiguous(memory_format=layout):
                self.add("copy", 0, 2 * _size(x))
        else:
            self._laid_out(x)
            if x.dtype in _HALVES and not (is_pointwise and x.ndim == 4):
                self.add("conv layout", 0, 2 * num_bytes, launches=3)
        if bias is not None:
            self.add("conv bias", 0, 2 * _size(out))
        return out

    def _group_norm(self, args: Sequence[Any], result: Sequence[Tensor]) -> tuple[Tensor, ...]:
        x = args[0]
        self._laid_out(x)
        self.add("group norm", 0, 3 * _size(x), launches=3)
        return (torch.empty(x.shape, dtype=x.dtype, device=x.device), *result[1:])

    def _laid_out(self, x: Tensor) -> None:
        if not x.is_contiguous():
            self.add("copy", 0, 2 * _size(x))


class _Attention(TorchFunctionMode):
    def __init__(self, walk: _Walk) -> None:
        super().__init__()
        self.walk = walk

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        named = dict(zip(_QKV, args, strict=False)) | dict(kwargs)
        q, k, v = (named[name] for name in _QKV)
        if q.ndim != 4:
            return _ATEN._scaled_dot_product_attention_math(q, k, v)[0]
        batch, heads, length, dim = q.shape
        # as CUDA's kernels lay it out: heads side by side
        out = torch.empty(batch, length, heads, v.shape[-1], dtype=q.dtype, device=q.device).transpose(1, 2)
        keys = k.shape[-2]
        self.walk.add(
            ATTENTION if keys >= SHORT else SHORT_ATTENTION,
            2 * batch * heads * length * keys * (dim + v.shape[-1]),
            sum(map(_size, (q, k, v, out))),
        )
        return out


_QKV = ("query", "key", "value")


def _size(tensor: Tensor) -> int:
    """Bytes of the elements that a tensor has in memory; an expanded axis counts once."""
    if not tensor.numel():
        return 0
    return math.prod(size for size, step in zip(tensor.shape, tensor.stride(), strict=True) if step) * tensor.itemsize


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=_CHANNELS_LAST[tensor.ndim]) and not tensor.is_contiguous()


def _is_same_view(target: object, source: object) -> bool:
    return (
        isinstance(target, Tensor)
        and isinstance(source, Tensor)
        and target.untyped_storage()._cdata == source.untyped_storage()._cdata
        and target.storage_offset() == source.storage_offset()
        and target.stride() == source.stride()
        and target.shape == source.shape
    )


def _traffic(packet: object, given: Sequence[Tensor], made: Sequence[Tensor]) -> int:
    if packet in _GATHERS:
        return 2 * _size(made[0])
    read = given[1:] if packet in (*_OVERWRITES, torch.ops.exvideo.scaled_into) else given
    return sum(map(_size, [*read, *made]))


def _kind(func: OpOverload) -> str:
    if func.namespace == "exvideo":
        return func._schema.name.partition("::")[2]
    packet = func._overloadpacket
    if packet is _ATEN._to_copy:
        return "cast"
    if packet is _ATEN.var_mean:
        return "statistics"
    return "copy" if packet in _COPIES else "elementwise"


def _where() -> str:
    """The two innermost functions of a model's code on the stack, innermost first."""
    names: list[str] = []
    frame = sys._getframe(2)
    while frame.f_back and len(names) < 2:
        frame = frame.f_back
        file = frame.f_code.co_filename
        if any(part in file for part in ("exvideo_core", "diffsynth", "diffusers")):
            names.append(f"{os.path.basename(file)[:-3]}.{frame.f_code.co_name}")
    return " < ".join(names)
