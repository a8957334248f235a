"""NaN check: results of networks are finite, or an error names the layer that NaN or Inf came from, and why.

An ordinary run only looks at the result. If that has NaN or Inf, the network runs once more with hooks on its layers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache, partial
from itertools import chain

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..errors import NumberError

log = logging.getLogger(__name__)

_OVER_TIME = ("time_stack", "time_mixer", "time_mix_conv", "time_pos_embed", "extension")  # parts of layers' names

_VANISHED = (
    "the result had NaN or Inf, but not in a second run. If step reuse is on, a predicted step overflowed: turn it "
    "off, or lower its threshold. Else this device is unstable: check its temperature, power and overclocking."
)
_NO_SECOND_RUN = (
    "the result has NaN or Inf, and the run that looks for the layer went out of memory. A smaller clip needs less; in "
    "float16, bf16 may help."
)
_DAMAGED = (
    "Its file is damaged (compare its SHA-256 with the published one, or download it again), or its values are too "
    "large for the dtype it was loaded in (choose bf16 or fp32)."
)
_OVERFLOW = "Load the model in bf16, or in fp32 where the card has no bf16."
_ABSURD = (
    "The activations have grown absurdly large, as with a damaged weight file (compare its SHA-256 with the published "
    "one), a LoRA at a far too high strength or for another model, or a guidance scale of hundreds."
)
_OTHER_ATTENTION = "If that changes nothing, choose another attention, such as sdpa."


def checked(result: Tensor, network: nn.Module, again: Callable[[], object], given: Mapping[str, Tensor]) -> Tensor:
    """The result of a network, if it is finite.

    Args:
        network: for the names of its layers.
        again: runs the same forward pass once more.
        given: the inputs, by what people call them.

    Raises:
        NumberError: says which input, weight or layer NaN or Inf came from.
    """
    if is_finite(result):
        return result
    check_given(given)
    log.warning("ExVideo: NaN or Inf in the result; running the network once more to find the layer")
    raise NumberError(_search(network, again) or _VANISHED)


def checked_part(what: str, part: Tensor, network: nn.Module, again: Callable[[], Tensor], given: Tensor) -> Tensor:
    """An autoencoder's result for some frames, if it is finite; an error begins with `what`."""
    try:
        return checked(part, network, again, {"what goes in": given})
    except NumberError as error:
        raise error.at(what) from error


def check_given(given: Mapping[str, Tensor]) -> None:
    """Raise NumberError, with the name, if an input has NaN or Inf."""
    for name, value in given.items():
        if not is_finite(value):
            raise NumberError(
                f"{name} holds {describe_nonfinite(value)}, before the network has computed anything with it. "
                f"Look at what made it: a picture, a latent or a conditioning from another node, file or program."
            )


def is_finite(x: Tensor) -> bool:
    """Whether a tensor has neither NaN nor Inf."""
    if x.numel() == 0 or not (x.is_floating_point() or x.is_complex()):
        return True
    if x.dtype.itemsize == 1:  # without sign they are in the order of their bytes, and NaN is the last
        return int((x.view(torch.uint8) & 0x7F).max()) <= _largest_byte(x.dtype)
    # both ends are NaN if any value is; 30 times faster than isfinite().all(), and without a mask in memory
    ends = torch.aminmax(torch.view_as_real(x) if x.is_complex() else x)
    return bool(torch.isfinite(ends.min) & torch.isfinite(ends.max))


@cache
def _largest_byte(dtype: torch.dtype) -> int:
    """Byte of the largest number in an 8-bit dtype."""
    return int(torch.tensor(torch.finfo(dtype).max).to(dtype).view(torch.uint8))


def describe_nonfinite(x: Tensor) -> str:
    """Which non-finite values a tensor has, and how many: "NaN (3 of 4,096 values)"."""
    x = x if x.dtype.itemsize > 1 else x.half()
    kinds = [name for name, mask in (("NaN", x.isnan()), ("infinity", x.isinf())) if bool(mask.any())]
    count = x.numel() - int(x.isfinite().sum())
    return f"{' and '.join(kinds)} ({count:,} of {x.numel():,} values)"


def _search(network: nn.Module, again: Callable[[], object]) -> str | None:
    """Where NaN or Inf comes from, as a sentence; None if the second run is finite.

    Hooks find the first module with finite inputs and a result that is not, else the first that was given NaN or Inf.
    Infinity that does not reach the result of a module, such as in a mask, is nobody's fault.
    """
    said: dict[str, str] = {}  # about these two modules
    are_inputs_finite: list[bool] = []  # of the running modules, the innermost last

    def enter(_module: nn.Module, args: object, kwargs: object) -> None:
        are_inputs_finite.append(_nonfinite((args, kwargs)) is None)

    def leave(name: str, module: nn.Module, _args: object, result: object) -> None:
        is_origin = are_inputs_finite.pop()
        if "origin" in said or (bad := _nonfinite(result)) is None:
            return
        if is_origin:
            said["origin"] = _origin(module, name, bad)
        suspicion = (
            f"{_place(name)}: gave {describe_nonfinite(bad)} from a tensor that held such values already. They are not "
            f"from any layer: choose another attention, such as sdpa."
        )
        said.setdefault("suspect", suspicion)

    try:
        with ExitStack() as hooks:  # `effective_weights` has layers with hooks called
            for name, module in network.named_modules():
                hooks.enter_context(module.register_forward_pre_hook(enter, with_kwargs=True))
                # prepended, so that it runs before hooks that take weights away
                hooks.enter_context(module.register_forward_hook(partial(leave, name), prepend=True))
            bad = _nonfinite(again())
    except torch.OutOfMemoryError:  # layers with hooks are not chunked
        return said.get("origin", _NO_SECOND_RUN)
    return None if bad is None else said.get("origin") or said.get("suspect") or _origin(network, "", bad)


def _origin(module: nn.Module, name: str, result: Tensor) -> str:
    """The sentence about a module that made NaN or Inf of finite inputs: a bad weight, overflow, or else."""
    dtype = str(result.dtype).removeprefix("torch.")
    for weight_name, weight in chain(module.named_parameters(name), module.named_buffers(name)):
        if weight.is_floating_point() and not is_finite(converted := weight.to(result.dtype)):
            return f"the weight {weight_name} holds {describe_nonfinite(converted)} in {dtype}. {_DAMAGED}"
    what = f"finite inputs gave {describe_nonfinite(result)}"
    if result.dtype == torch.float16:
        sentence = f"{_place(name)}: float16 overflowed: {what}; float16 ends at 65504. {_OVERFLOW}"
    else:
        sentence = f"{_place(name)}: {what} in {dtype}. {_ABSURD}"
    return f"{sentence} {_OTHER_ATTENTION}" if any(module.children()) else sentence


def _place(name: str) -> str:
    over_time = " (over time)" if set(_OVER_TIME) & set(name.split(".")) else ""
    return f"{name or 'the network'}{over_time}"


def _nonfinite(tree: object) -> Tensor | None:
    """The first tensor with NaN or Inf."""
    tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
    return next((tensor for tensor in tensors if not is_finite(tensor)), None)
