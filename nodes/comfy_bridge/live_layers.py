"""ComfyUI's layers with their effective weights (see `nn/effective_weights.py` in the core)."""

from __future__ import annotations

from typing import Any

import comfy.ops
from torch import Tensor


class _Told:
    """Weights as ComfyUI has them for one call: cast, on the input's device, with LoRAs that are not merged."""

    def effective_weights(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        comfy.ops.run_every_op()  # a cancelled run stops here, as where a layer is called
        dtype = x.dtype if x.is_floating_point() else None  # a table looked up by numbers stays what it is
        weight, bias, lent = comfy.ops.cast_bias_weight(
            self, device=x.device, dtype=dtype, bias_dtype=dtype, offloadable=True
        )
        if lent[0] is None and not hasattr(self, "_v"):
            return weight, bias
        # in memory that the next layer's weights go to, or that dynamic VRAM holds until it is given back
        try:
            return weight.clone(), None if bias is None else bias.clone()
        finally:
            comfy.ops.uncast_bias_weight(self, weight, bias, lent)


class _Untold:
    """Layers that compute in a way of their own: quantised, GGUF, cuBLAS."""

    def effective_weights(self, x: Tensor) -> None:
        return None


def live(operations: Any, name: str) -> type:
    """The layer class of that name, with `effective_weights`.

    Args:
        operations: `comfy.ops.disable_weight_init` or one of its children.
        name: such as "Linear".
    """
    made, plain = getattr(operations, name), getattr(comfy.ops.disable_weight_init, name)
    is_plain = all(getattr(made, way, None) is getattr(plain, way) for way in ("forward", "forward_comfy_cast_weights"))
    named = {"__module__": made.__module__, "__qualname__": made.__qualname__, "__doc__": made.__doc__}
    return type(made.__name__, (_Told if is_plain else _Untold, made), named)
