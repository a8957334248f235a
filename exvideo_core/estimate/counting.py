"""Operations and memory of a call, counted on the meta device: real sizes in seconds, without the memory.

Two floating point operations are one multiply-add of a product, a convolution or attention; nothing else counts.
Memory is what a call allocates beside its inputs and weights. Workspaces inside of kernels are not seen.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ATTENTION, CONVOLUTION, PRODUCT, ELEMENTWISE = "attention", "convolution", "product", "elementwise"


@dataclass(kw_only=True)
class Counts:
    """Counts of a call, by kind of operation: attention, convolution, (matrix) product, elementwise (all others)."""

    flops: dict[str, int] = field(default_factory=dict)  # floating point operations
    moved: dict[str, int] = field(default_factory=dict)  # bytes that each operation by itself reads and writes
    peak: int = 0  # bytes alive at the same time
    operations: int = 0  # number of kernels, views not counted
    now = 0  # bytes alive, during the call; no field of the result

    @property
    def total_flops(self) -> int:
        """Floating point operations of all kinds."""
        return sum(self.flops.values())

    def add(self, kind: str, flops: int, moved: int) -> None:
        """Count an operation."""
        self.operations += 1
        self.moved[kind] = self.moved.get(kind, 0) + moved
        if flops:
            self.flops[kind] = self.flops.get(kind, 0) + flops

    def follow(self, tensor: Tensor) -> None:
        """Count a new tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.now -= size


def count(call: Callable[[], object]) -> Counts:
    """Run a call on the meta device, without gradients, and count.

    Args:
        call: of networks and inputs that are on the meta device; where it makes tensors, they are too.
    """
    # in inference mode, operations that consist of others would come as one, and their parts would not be seen
    with torch.inference_mode(False), torch.no_grad(), torch.device("meta"), counting() as counts:
        call()
    return counts


def repeated(one: Counts, two: Counts, times: int) -> Counts:
    """Counts of a network with `times` equal blocks, from those with one and with two of them."""
    if times < 2:
        return one

    def line(first: int, second: int) -> int:
        return first + (times - 1) * (second - first)

    return Counts(
        flops={kind: line(one.flops[kind], two.flops[kind]) for kind in two.flops},
        moved={kind: line(one.moved[kind], two.moved[kind]) for kind in two.moved},
        peak=two.peak,
        operations=line(one.operations, two.operations),
    )


@contextmanager
def counting() -> Iterator[Counts]:
    """Count all operations in a block, on any device; with gradients too, but attention has none.

    PyTorch's attention is taken to hold queries, keys, values and result alone, as its fast kernels do; and it gives
    no values, so this is for counting only.
    """
    counts = Counts()
    with _FastAttention(counts), _Operations(counts):
        yield counts


class _Operations(TorchDispatchMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no types
        self.counts = counts
        # networks repeat themselves, and to ask the meta device for a shape takes most of the time
        self.known: dict[object, _Known] = {}

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        kwargs = kwargs or {}
        traits = _traits(func)
        if not traits.makes and not traits.writes:  # a view
            return func(*args, **kwargs)
        key = func, _signature(args), _signature(tuple(kwargs.items()))
        known = self.known.get(key)
        result = known.again(args) if known and known.again else func(*args, **kwargs)
        if known is None:
            flops = traits.flops(*args, **kwargs, out_val=result) if traits.flops else 0
            read = {name: value for name, value in kwargs.items() if name != "out"}  # which is written and not read
            moved = sum(map(_num_bytes, _tensors((args[traits.is_overwrite :], read, result))))
            known = self.known[key] = _Known(flops=flops, moved=moved, again=_again(traits, result))
        if traits.moves:
            self.counts.add(traits.kind, known.flops, known.moved)
        if traits.makes:
            for tensor in _tensors(result):
                self.counts.follow(tensor)
        return result


class _FastAttention(TorchFunctionMode):
    """Stands in for PyTorch's attention, which on the meta device would hold all scores."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

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
        # laid out as the queries, as FlashAttention and cuDNN do
        result = torch.empty_like(q) if q.shape[-1] == v.shape[-1] else q.new_empty((*q.shape[:-1], v.shape[-1]))
        flops = 2 * (q.numel() + result.numel()) * k.shape[-2]
        self.counts.add(ATTENTION, flops, sum(map(_num_bytes, (q, k, v, result))))
        return result


class Elsewhere:
    """Stands for a tensor that waits in memory which is not counted; parts of its first axis come back as new ones."""

    def __init__(self, x: Tensor) -> None:
        self.shape, self.dtype = x.shape, x.dtype
        self._stride = x.stride()

    def __getitem__(self, part: slice) -> Tensor:
        length = len(range(*part.indices(self.shape[0])))
        return torch.empty_strided((length, *self.shape[1:]), self._stride, dtype=self.dtype, device="meta")


@dataclass(frozen=True, kw_only=True)
class _Traits:
    kind: str
    flops: Callable[..., int] | None
    writes: bool  # into what it is given
    makes: bool  # a storage
    moves: bool  # memory is read or written
    is_in_place: bool  # the first argument is the result
    is_overwrite: bool  # and is not read


_ATEN = torch.ops.aten
_LIKE = {_ATEN.addmm_: _ATEN.addmm, _ATEN.baddbmm_: _ATEN.baddbmm}  # which PyTorch's counter leaves out
_UNTOUCHED = {
    _ATEN.empty, _ATEN.empty_like, _ATEN.empty_strided, _ATEN.new_empty, _ATEN.new_empty_strided,
}  # fmt: skip
_OVERWRITES = {_ATEN.copy_, _ATEN.fill_, _ATEN.zero_}


@functools.cache
def _traits(func: OpOverload) -> _Traits:
    from torch.utils.flop_counter import flop_registry  # slow to import

    packet, schema = func._overloadpacket, func._schema
    flops = flop_registry.get(_LIKE.get(packet, packet))
    shares = packet is _ATEN._unsafe_view or any(value.alias_info for value in schema.returns)
    written = [argument for argument in schema.arguments if argument.alias_info and argument.alias_info.is_write]
    return _Traits(
        kind=CONVOLUTION if packet is _ATEN.convolution else PRODUCT if flops else ELEMENTWISE,
        flops=flops,
        writes=bool(written),
        makes=not shares,
        moves=packet not in _UNTOUCHED,
        is_overwrite=packet in _OVERWRITES,
        is_in_place=written == list(schema.arguments[:1])
        and len(schema.returns) == 1
        and torch.Tag.inplace_view not in func.tags,
    )


@dataclass(frozen=True, kw_only=True)
class _Known:
    """An operation on tensors of given shapes."""

    flops: int
    moved: int
    again: Callable[[tuple[object, ...]], object] | None  # its result for other tensors; None where it has to run


def _again(traits: _Traits, result: object) -> Callable[[tuple[object, ...]], object] | None:
    made = result if isinstance(result, tuple) else (result,)
    if not all(isinstance(one, Tensor) and one.is_meta for one in made):
        return None
    if traits.is_in_place:
        return lambda args: args[0]
    if not traits.makes:
        return None
    sizes, is_one = [(one.shape, one.stride(), one.dtype) for one in made], isinstance(result, Tensor)

    def again(_args: tuple[object, ...]) -> object:
        tensors = [torch.empty_strided(*size, dtype=dtype, device="meta") for *size, dtype in sizes]
        return tensors[0] if is_one else tuple(tensors)

    return again


def _signature(value: object) -> object:
    """Everything that a result's shape depends on, as a hashable value."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, list | tuple):
        return tuple(map(_signature, value))
    return type(value), value


def _tensors(tree: object) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _num_bytes(tensor: Tensor) -> int:
    """Bytes that reading it moves; those repeated by `expand` are read once."""
    own = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return math.prod(own) * tensor.itemsize if tensor.numel() else 0
