"""What a call needs, counted on the meta device: real sizes in seconds, and without the memory.

Two floating point operations are one multiply-add of a product, a convolution or attention; nothing else counts.
Memory is what a call makes beside its inputs and weights. What kernels need inside of themselves is not seen.
"""

from __future__ import annotations

import functools
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ATTENTION, CONVOLUTION, PRODUCT, ELEMENTWISE = "attention", "convolution", "product", "elementwise"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Of one call, by kind of operation: attention, convolution, (matrix) product, elementwise (all others).

    Attributes:
        flops: floating point operations.
        moved: bytes that each operation by itself reads and writes.
        peak: bytes alive at the same time.
    """

    flops: dict[str, int]
    moved: dict[str, int]
    peak: int

    @property
    def total_flops(self) -> int:
        """Of all kinds."""
        return sum(self.flops.values())


def count(call: Callable[[], object]) -> Counts:
    """Run a call on the meta device, without gradients, and count.

    Args:
        call: of networks and inputs that are on the meta device; where it makes tensors, they are too.
    """
    with torch.no_grad(), torch.device("meta"), counting() as tally:
        call()
    return Counts(flops=dict(tally.flops), moved=dict(tally.moved), peak=tally.peak)


@contextmanager
def counting() -> Iterator[Tally]:
    """Count all operations in a block, on any device and with gradients too.

    PyTorch's attention is taken to hold queries, keys, values and result alone, as its fast kernels do; and it gives
    no values, so this is for counting only.
    """
    tally = Tally()
    with _FastAttention(tally), _Operations(tally):
        yield tally


class Tally:
    """What was counted until now.

    Attributes:
        flops, moved: by kind, as in `Counts`.
        now, peak: bytes alive, and the most there were.
    """

    def __init__(self) -> None:
        self.flops: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()
        self.now = self.peak = 0

    def follow(self, tensor: Tensor) -> None:
        """Count a new tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.now -= size


class _Operations(TorchDispatchMode):
    def __init__(self, tally: Tally) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no types
        self.tally = tally

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        traits = _traits(func)
        if traits.flops:
            self.tally.flops[traits.kind] += traits.flops(*args, **(kwargs or {}), out_val=result)
        if traits.moves:
            self.tally.moved[traits.kind] += sum(map(_num_bytes, _tensors((args, kwargs, result))))
        if traits.makes:
            for tensor in _tensors(result):
                self.tally.follow(tensor)
        return result


class _FastAttention(TorchFunctionMode):
    """Stands in for PyTorch's attention, which on the meta device would hold all scores."""

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally = tally

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Tensor, ...] = (),
        kwargs: dict[str, Tensor] | None = None,
    ) -> object:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        named = dict(zip(("query", "key", "value"), args, strict=False), **(kwargs or {}))
        q, k, v = named["query"], named["key"], named["value"]
        result = attention(q, k, v)
        self.tally.flops[ATTENTION] += 2 * q.numel() * k.shape[-2] + 2 * result.numel() * k.shape[-2]
        self.tally.moved[ATTENTION] += sum(map(_num_bytes, (q, k, v, result)))
        return result


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # laid out as the queries, as FlashAttention and cuDNN do
        result = torch.empty_like(q) if q.shape[-1] == v.shape[-1] else q.new_empty((*q.shape[:-1], v.shape[-1]))
        ctx.save_for_backward(q, k, v, result)
        return result

    @staticmethod
    def backward(ctx: FunctionCtx, _gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])  # type: ignore[attr-defined]  # untold by torch


# Attention without its values: holds queries, keys, values and the result, and gradients of their sizes. For networks
# that are checkpointed, whose second forward runs where autograd does and not in the block that counts.
attention: Callable[[Tensor, Tensor, Tensor], Tensor] = _Attention.apply


@dataclass(frozen=True, kw_only=True)
class _Traits:
    kind: str
    flops: Callable[..., int] | None
    moves: bool  # memory is read and written
    makes: bool  # a storage


_ATEN = torch.ops.aten
_MORE_FORMULAS = {_ATEN.addmm_: flop_registry[_ATEN.addmm], _ATEN.baddbmm_: flop_registry[_ATEN.baddbmm]}
_UNTOUCHED = {
    _ATEN.empty, _ATEN.empty_like, _ATEN.empty_strided, _ATEN.new_empty, _ATEN.new_empty_strided,
}  # fmt: skip


@functools.cache
def _traits(func: OpOverload) -> _Traits:
    packet = func._overloadpacket
    flops = flop_registry.get(packet) or _MORE_FORMULAS.get(packet)
    kind = CONVOLUTION if packet is _ATEN.convolution else PRODUCT if flops else ELEMENTWISE
    shares = packet is _ATEN._unsafe_view or any(value.alias_info for value in func._schema.returns)
    writes = any(argument.alias_info and argument.alias_info.is_write for argument in func._schema.arguments)
    return _Traits(kind=kind, flops=flops, moves=packet not in _UNTOUCHED and (writes or not shares), makes=not shares)


def _tensors(tree: object) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _num_bytes(tensor: Tensor) -> int:
    """What reading it takes; repeated ones (`expand`) are read once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
