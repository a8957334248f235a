"""Results of networks are numbers, or an error names the first layer that made something else of numbers.

What is looked at in every run is the result alone. Only where that holds NaN or infinity, the same is computed once
more with `_Search` looking at every operation: whatever way a layer is computed (in pieces, by functions, with weights
put together, converted or lent by a host), its arithmetic is operations of PyTorch on tensors, and those can be seen.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import NumberError
from .fused import fusing

log = logging.getLogger(__name__)

_OVER_TIME = ("time_stack", "time_mixer", "time_mix_conv", "time_pos_embed", "extension")  # parts of layers' names


def checked(result: Tensor, network: nn.Module, again: Callable[[], object], given: Mapping[str, Tensor]) -> Tensor:
    """The result of a network, if all of it is numbers.

    Args:
        result: of a forward pass.
        network: for the names of its layers.
        again: computes the same once more.
        given: what went in, by what people call it.

    Raises:
        NumberError: says what is no number, and where that came from.
    """
    if is_finite(result):
        return result
    check_given(given)
    log.warning("ExVideo: the result is not all numbers; computing it once more to find the layer")
    raise NumberError(_search(network, again) or _VANISHED)


def checked_part(what: str, part: Tensor, network: nn.Module, again: Callable[[], Tensor], given: Tensor) -> Tensor:
    """What an autoencoder has made of some frames; an error begins with what that is."""
    try:
        return checked(part, network, again, {"what goes in": given})
    except NumberError as error:
        raise error.at(what) from error


def check_given(given: Mapping[str, Tensor]) -> None:
    """Raise NumberError, with the name, if something that a network is to be given is not all numbers."""
    for name, value in given.items():
        if not is_finite(value):
            raise NumberError(
                f"{name} holds {described(value)}, before the network has computed anything with it. "
                f"Look at what made it: a picture, a latent or a conditioning from another node, file or program."
            )


def is_finite(x: Tensor) -> bool:
    """Whether there is neither NaN nor infinity in it."""
    if x.numel() == 0 or not (x.is_floating_point() or x.is_complex()):
        return True
    if x.dtype.itemsize == 1:  # without sign they are in the order of their bytes, and NaN is the last
        return int((x.view(torch.uint8) & 0x7F).max()) <= _largest_byte(x.dtype)
    # both ends are NaN if any value is; 30 times faster than isfinite().all(), and without a mask in memory
    ends = torch.aminmax(torch.view_as_real(x) if x.is_complex() else x)
    return bool(torch.isfinite(ends.min) & torch.isfinite(ends.max))


@cache
def _largest_byte(dtype: torch.dtype) -> int:
    """Of the largest number in an 8-bit format."""
    return int(torch.tensor(torch.finfo(dtype).max).to(dtype).view(torch.uint8))


def described(x: Tensor) -> str:
    """What in a tensor is no number, and how much: "NaN (3 of 4,096 values)"."""
    x = x if x.dtype.itemsize > 1 else x.half()
    kinds = [name for name, mask in (("NaN", x.isnan()), ("infinity", x.isinf())) if bool(mask.any())]
    count = x.numel() - int(x.isfinite().sum())
    return f"{' and '.join(kinds)} ({count:,} of {x.numel():,} values)"


_VANISHED = (
    "the result held NaN or infinity, and computed once more it does not. If step reuse is on, a predicted step grew "
    "beyond its number format: turn it off, or lower its threshold. Else this device computes differently from one "
    "time to the next: look at its temperature, power and overclocking."
)


# the search


@dataclass(frozen=True)
class _Origin:
    """The first operation that gave what is no number."""

    layer: str
    operation: str
    result: str  # described
    dtype: torch.dtype
    weight: tuple[str, str] | None  # name and what it holds, if it was a weight that came in
    is_given: bool  # something else came in that was none already

    def __str__(self) -> str:
        if self.weight:
            name, holds = self.weight
            return f"the weight {name} holds {holds}. {_DAMAGED}"
        where = f"{self.layer}{' (over time)' if set(_OVER_TIME) & set(self.layer.split('.')) else ''}"
        what = f"{self.operation} gave {self.result} in {str(self.dtype).removeprefix('torch.')}"
        if self.is_given:
            return f"{where}: {what}, from a tensor that held such values already. {_OUTSIDE}"
        if self.dtype == torch.float16:
            return f"{where}: float16 overflowed: {what}, from finite numbers, for it ends at 65504. {_OVERFLOW}"
        return f"{where}: {what}, from finite numbers. {_ABSURD}"


_DAMAGED = (
    "Its file is damaged (compare its SHA-256 with the published one, or download it again), or its values are too "
    "large for the number format it was loaded in (choose bf16 or fp32)."
)
_OVERFLOW = "Load the model in bf16, or in fp32 where the card has no bf16."
_OUTSIDE = "What made it is not computed by PyTorch: choose another attention, such as sdpa."
_ABSURD = (
    "The numbers have grown absurdly large, as with a damaged weight file (compare its SHA-256 with the published one, "
    "or download it again), a LoRA at a far too high strength or one for another model, or a guidance scale of "
    "hundreds."
)


def _search(network: nn.Module, again: Callable[[], object]) -> str | None:
    search = _Search(network)
    with fusing(False), search.following_modules(), search:
        result = again()
    origin = search.origin_of(result)
    return None if origin is None else str(origin)


class _Search(TorchDispatchMode):
    """Sees every operation in this thread.

    An operation belongs to the layer whose weights go in, else to the layer whose result went in last, else to the
    module that runs. Infinity that does not reach the result, such as in a mask, is nobody's fault; so every memory
    with such values knows where they come from.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights: Any = WeakIdKeyDictionary()  # weights, and what is made of weights alone, to their names
        for name, weight in (*network.named_parameters(), *network.named_buffers()):
            self.weights[weight] = (name,)
        self.module_names = {id(module): name for name, module in network.named_modules()}
        self.running: list[str] = []  # modules that are being computed, the innermost last
        self.made_by: dict[int, tuple[int, str]] = {}  # memory to the layer that wrote there last, and when
        self.origins: dict[int, _Origin] = {}  # memory to where what is no number in it comes from
        self.clock = 0

    @contextmanager
    def following_modules(self) -> Iterator[None]:
        """Know which module runs. By hooks of all modules: hooks of its own change how a layer is computed."""
        thread = threading.get_ident()

        def enter(module: nn.Module, *_: object) -> None:
            if threading.get_ident() == thread:
                self.running.append(self.module_names.get(id(module), type(module).__name__))

        def leave(*_: object) -> None:
            if threading.get_ident() == thread:
                self.running.pop()

        hooks = register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        given = _tensors((args, kwargs))
        places = set(map(_place, given))
        if func._schema.is_mutable:
            written = _tensors(result) or given[:1]
        else:
            written = [each for each in _tensors(result) if _place(each) not in places]
            for each in written:  # new memory, which may lie where other was
                self.origins.pop(_place(each), None)
        self._name(func, given, _tensors(result), written)
        if "empty" not in func.__name__:  # what is there by chance
            for each in written:
                self._look(func, given, each)
        return result

    def _name(self, func: Any, given: Sequence[Tensor], results: Sequence[Tensor], written: Sequence[Tensor]) -> None:  # noqa: ANN401
        names = [self.weights.get(each) for each in given]
        if given and None not in names:  # a view, a copy, several put together
            for each in results:
                self.weights[each] = tuple(name for group in names for name in group)
        self.clock += 1
        layer = self._layer_of([name for group in names for name in group or ()], given)
        for each in written:
            self.made_by[_place(each)] = self.clock, layer

    def _layer_of(self, weights: Sequence[str], given: Sequence[Tensor]) -> str:
        if weights:
            return _common([name.rpartition(".")[0] for name in weights])
        last = max((self.made_by.get(_place(each), (0, "")) for each in given), default=(0, ""))
        return last[1] or next(filter(None, reversed(self.running)), "the network")

    def _look(self, func: Any, given: Sequence[Tensor], result: Tensor) -> None:  # noqa: ANN401
        place = _place(result)
        if is_finite(result):
            if result.nbytes == result.untyped_storage().nbytes():  # all of it was written anew
                self.origins.pop(place, None)
            return
        bad = [each for each in given if _place(each) != place and not is_finite(each)]
        known = [self.origins[_place(each)] for each in bad if _place(each) in self.origins]
        if known or place in self.origins:
            self.origins.setdefault(place, *known[:1])
            return
        weights = [("+".join(self.weights[each]), described(each)) for each in bad if each in self.weights]
        self.origins[place] = _Origin(
            layer=self.made_by[place][1],
            operation=func.__name__.partition(".")[0].strip("_"),
            result=described(result),
            dtype=result.dtype,
            weight=weights[0] if weights else None,
            is_given=bool(bad),
        )

    def origin_of(self, result: object) -> _Origin | None:
        """Where what is no number in a result comes from; None if all of it is numbers."""
        return next((self.origins[_place(each)] for each in _tensors(result) if not is_finite(each)), None)


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _place(x: Tensor) -> int:
    """The memory a tensor is in; that of a mapped file is one for all its weights."""
    return x.untyped_storage()._cdata


def _common(layers: Sequence[str]) -> str:
    """The innermost module that all these are in."""
    shared = []
    for parts in zip(*(name.split(".") for name in layers), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)
