"""The emulated device: PyTorch's FakeTensorMode, with CUDA's rules.

It differs from FakeTensorMode in this:

- Operations on plain tensors of the CPU are computed, so that schedules, hashes and files are what they are. Those
  above 32 MiB are emulated as well.
- Values read back from a card are made up: True, a small number, zeros. Each such wait of the host is counted.
- Results are laid out as CUDA's kernels do it (`kernels`), and attention has a kernel or has none (`attention`).
- Memory is limited (`memory`), and accesses out of order are races (`streams`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from . import copies, kernels
from .cards import Card
from .costs import Costs
from .memory import Memory
from .storages import Runtime, Storages
from .streams import Races, Streams
from .trees import allocates, is_composite, leaves, mapped, signature, writes

_ATEN = torch.ops.aten
LARGE = 2**25  # bytes above which a tensor of the CPU is emulated, too
_SMALL_NUMBER = 1e-4  # in place of numbers that are read back: passes for an error and for a distance
# Operations that queue no kernel, though they are no views.
_QUEUE_NOTHING = ("empty", "new_empty", "record_stream")
# Operations that CUDA does by a memset, which does not look at the last error.
_MEMSETS = ("zeros", "zero_", "zeros_like", "new_zeros")

Cached = tuple[bool, list[tuple[Any, ...]]] | None


class EmulatedCuda(FakeTensorMode):
    """One or two equal cards. Active within its context, see `patches.emulated`.

    Attributes:
        costs: counts so far.
        memory: of each card and of the host.
        races: seen so far.
        last_error: an error that CUDA has not yet reported; the next kernel's launch does.
        cudnn_refuses: whether cuDNN finds no plan for attention of these queries.
        convolution_fails: whether a convolution fails as it does when no plan's workspace fits.
    """

    avoid_device_init = True

    def __init__(self, card: Card) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.card = card
        self.costs = Costs()
        self.memory = Memory(card.num_bytes)
        self.streams = Streams()
        self.races = Races(self.streams)
        self.storages = Storages(self.memory, self.races)
        self.runtime = Runtime(self.memory)
        self.last_error: str | None = None
        self.cudnn_refuses: Callable[[Tensor], bool] = lambda q: False
        self.convolution_fails: Callable[[Tensor], bool] = lambda x: False
        self._cache: dict[object, Cached] = {}
        self._is_inside = False

    # tensors

    def fake(self, meta: Tensor, where: torch.device) -> FakeTensor:
        """A tensor of a device, from one of the meta device."""
        return FakeTensor(self, meta, where)

    def like(self, source: Tensor, dtype: torch.dtype, where: torch.device, layout: Any = None) -> FakeTensor:
        """An empty tensor in the shape and layout of another."""
        meta = torch.empty_strided(source.shape, source.stride(), dtype=dtype, device="meta")
        return self.fake(torch.empty_like(meta, memory_format=layout or torch.preserve_format), where)

    def weight(self, meta: Tensor, where: torch.device | str) -> Tensor:
        """A tensor of a device that was there before: nothing wrote it."""
        with torch._C._DisableTorchDispatch():
            made = self.fake(meta, torch.device(where))
        self.allocated(made, "weights")
        return made

    def allocated(self, tensor: FakeTensor, what: str, *, is_pinned: bool = False) -> None:
        """Count the memory of a new tensor."""
        where = tensor.fake_device
        owner = self.streams.current(where) if where.type == "cuda" else None
        self.storages.allocate(tensor, where, owner, what, is_pinned=is_pinned)

    def is_locked(self, tensor: Tensor) -> bool:
        """Whether a tensor of the host is in page-locked memory."""
        if not isinstance(tensor, FakeTensor):
            return False
        return self.storages.of(tensor).is_pinned or self.runtime.is_registered(self.storages.address(tensor))

    def waited(self, device: torch.device, cause: str) -> None:
        """The host waits for a device's current stream."""
        self.costs.waits[cause] += 1
        self.streams.current(device).synchronize()

    # operations

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if self._is_inside or func.namespace == "prim":
            return super().__torch_dispatch__(func, types, args, kwargs)
        if func is _ATEN._to_copy.default and kwargs.get("device") == torch.device("meta"):
            # the guard in `patches` is asked for the index of "cuda", and answers with a device of its own
            kwargs["device"] = self.streams.device_of(None)
        if is_composite(func):
            with self:  # so that what it is made of is seen
                return func.decompose(*args, **kwargs)
        fakes = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, FakeTensor)]
        if not fakes and self._is_computed(func, args, kwargs):
            return func(*args, **kwargs)
        self._is_inside = True
        try:
            return self._run(func, args, kwargs, fakes)
        finally:
            self._is_inside = False

    def _is_computed(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether an operation without emulated inputs runs as it is, on the CPU."""
        target = kwargs.get("device")
        if target is not None and torch.device(target).type == "cuda":
            return False
        dtype = kwargs.get("dtype") or torch.float32
        if func is _ATEN.empty.memory_format:
            # bytes are memory for streamed weights, which are emulated, and so is page-locked memory
            is_host_memory = dtype is torch.uint8 or kwargs.get("pin_memory")
            return not is_host_memory and math.prod(args[0]) * dtype.itemsize <= LARGE
        if func in (_ATEN.zeros.default, _ATEN.full.default):
            return math.prod(args[0]) * dtype.itemsize <= LARGE
        return True

    def _run(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], fakes: list[FakeTensor]) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name == "_local_scalar_dense":
            return self._read(args[0])
        is_pinned = bool(kwargs.pop("pin_memory", None))
        if name == "_to_copy":
            return copies.converted(self, func, args, kwargs)
        if name == "copy_":
            return copies.copied(self, func, args, kwargs)
        kernel = kernels.KERNELS.get(name) if any(each.fake_device.type == "cuda" for each in fakes) else None
        result = kernel(self, *args, **kwargs) if kernel else self._result(func, args, kwargs, fakes)
        self.queued(func, fakes, result, is_pinned=is_pinned)
        return result

    def _read(self, x: FakeTensor) -> bool | float | int:
        if x.fake_device.type == "cuda":
            self.waited(x.fake_device, "item")
        if x.dtype == torch.bool:
            return True
        return _SMALL_NUMBER if x.dtype.is_floating_point else 0

    def _result(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], fakes: list[FakeTensor]) -> Any:
        """The result as the meta device gives it, on the device it belongs to."""
        device = self._device_of(func, args, kwargs, fakes)
        if device.type == "meta":
            plain_args, plain_kwargs = mapped(_on_meta, (args, kwargs))
            return func(*plain_args, **plain_kwargs, device=device)
        key = None
        if allocates(func) or writes(func):
            key = func, signature(args), signature(tuple(kwargs.items()))
            if key in self._cache:
                return self._again(self._cache[key], args, device)
        result = self._on_meta_kernels(func, args, kwargs) if fakes else func(*args, **kwargs, device="meta")

        def placed(x: Any) -> Any:
            return self.fake(x, device) if isinstance(x, Tensor) and not isinstance(x, FakeTensor) else x

        result = mapped(placed, result)
        if key is not None and writes(func) and result is args[0]:
            self._cache[key] = None
        elif key is not None and allocates(func):
            made = result if isinstance(result, tuple) else (result,)
            if all(isinstance(one, FakeTensor) for one in made):
                sizes = [(one.shape, one.stride(), one.dtype) for one in made]
                self._cache[key] = isinstance(result, FakeTensor), sizes
        return result

    def _device_of(
        self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], fakes: list[FakeTensor]
    ) -> torch.device:
        """Where the result will be; an error if the inputs are on several devices."""
        if (target := kwargs.pop("device", None)) is not None:
            wanted = torch.device(target)
            return self.streams.device_of(wanted) if wanted.type == "cuda" else wanted
        on_cards = (each.fake_device for each in fakes if each.ndim and each.fake_device.type == "cuda")
        device = next(on_cards, fakes[0].fake_device if fakes else torch.device("cpu"))
        for each in leaves((args, kwargs)):
            if not isinstance(each, Tensor) or not each.ndim or each.device == device:
                continue
            if each.device.type == "cpu" and func._schema.name.startswith("aten::index"):
                self.costs.copies["H2D"] += 1
                self.waited(device, "H2D of an index")
                continue
            raise RuntimeError(
                f"{func}: Expected all tensors to be on the same device, but found {each.device} and {device}"
            )
        return device

    def _again(self, cached: Cached, args: tuple[Any, ...], device: torch.device) -> Any:
        if cached is None:
            return args[0]
        is_one, sizes = cached
        made = [
            self.fake(torch.empty_strided(shape, strides, dtype=dtype, device="meta"), device)
            for shape, strides, dtype in sizes
        ]
        return made[0] if is_one else tuple(made)

    def _on_meta_kernels(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the meta device's kernel on emulated tensors themselves, so that views stay views."""
        plain_args, plain_kwargs = mapped(lambda x: x if isinstance(x, FakeTensor) else _on_meta(x), (args, kwargs))
        before = self.in_kernel_invocation
        with torch._C._DisableTorchDispatch():
            self.in_kernel_invocation = True
            try:
                with torch._C._PreserveDispatchKeyGuard():
                    torch._C._set_meta_in_tls_dispatch_include(True)
                    return func(*plain_args, **plain_kwargs)
            finally:
                self.in_kernel_invocation = before

    def queued(self, func: OpOverload, fakes: list[FakeTensor], result: Any, *, is_pinned: bool = False) -> None:
        """Count an operation that has run: memory of its results, its kernel, its reads and writes."""
        name = func._schema.name.removeprefix("aten::")
        made = [each for each in leaves(result) if isinstance(each, FakeTensor)]
        given = self.storages.keys(fakes)
        new = [each for each in made if each.untyped_storage()._cdata not in given]
        for each in new:
            self.allocated(each, name, is_pinned=is_pinned)
        device = next((each.fake_device for each in (*made, *fakes) if each.fake_device.type == "cuda"), None)
        if device is None:
            for each in fakes if writes(func) or new else ():
                self.races.access(self.storages.of(each).uses, None, is_write=False, what=name)
            return
        is_view = not new and not writes(func)
        if is_view or name.startswith(_QUEUE_NOTHING):
            return
        written = self.storages.keys(made) if writes(func) else set()
        self.launched(name, device, fakes, new, written)

    def launched(
        self, name: str, device: torch.device, given: list[FakeTensor], new: list[FakeTensor], written: set[int]
    ) -> None:
        """Queue a kernel on the device's current stream."""
        if self.last_error and name not in _MEMSETS:
            error, self.last_error = self.last_error, None
            raise RuntimeError(f"CUDA error: {error}")
        self.costs.launches[name] += 1
        if any(each.dtype in (torch.float64, torch.complex128) and each.is_cuda for each in (*new, *given)):
            self.costs.float64[name] += 1
        stream = self.streams.current(device)
        stream.launch()
        for each in given:
            if each.fake_device.type != "cuda":
                continue
            if each.fake_device != device and each.ndim:
                self.costs.mixed[f"{name} on {device} of {each.fake_device}"] += 1
            is_write = each.untyped_storage()._cdata in written
            self.races.access(self.storages.of(each).uses, stream, is_write=is_write, what=name)
        for each in new:
            self.races.access(self.storages.of(each).uses, stream, is_write=True, what=name)


def _on_meta(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
