"""ComfyUI's layers with their effective weights (see `nn/effective_weights.py` in the core)."""

from __future__ import annotations

from typing import Any

import comfy.ops
from torch import Tensor


class _Castable:
    """A layer whose effective weights are ComfyUI's for one call: cast, on the input's device, with unmerged LoRAs."""

    def effective_weights(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        comfy.ops.run_every_op()  # raises after Cancel, like the call of a layer
        dtype = x.dtype if x.is_floating_point() else None  # an embedding that is looked up by integers keeps its dtype
        weight, bias, buffer = comfy.ops.cast_bias_weight(
            self, device=x.device, dtype=dtype, bias_dtype=dtype, offloadable=True
        )
        if buffer[0] is None and not hasattr(self, "_v"):
            return weight, bias
        # copied: the next layer's weights overwrite the buffer, and dynamic VRAM locks it until it is released
        try:
            return weight.clone(), None if bias is None else bias.clone()
        finally:
            comfy.ops.uncast_bias_weight(self, weight, bias, buffer)


class _Opaque:
    """A layer with its own way of computing (quantised, GGUF, cuBLAS), which must be called."""

    def effective_weights(self, x: Tensor) -> None:
        return None


def with_effective_weights(operations: Any, name: str) -> type:
    """The layer class of that name, with `effective_weights`.

    Args:
        operations: `comfy.ops.disable_weight_init` or one of its subclasses.
        name: such as "Linear".
    """
    made, plain = getattr(operations, name), getattr(comfy.ops.disable_weight_init, name)
    is_plain = all(getattr(made, way, None) is getattr(plain, way) for way in ("forward", "forward_comfy_cast_weights"))
    named = {"__module__": made.__module__, "__qualname__": made.__qualname__, "__doc__": made.__doc__}
    return type(made.__name__, (_Castable if is_plain else _Opaque, made), named)
