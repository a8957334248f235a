"""A layer's effective weights at call time, for code that bypasses `layer(x)`.

Nothing is cached between calls, so merged LoRAs, training steps and a host's offloading are always seen.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Weights = tuple[Tensor, Tensor | None]  # weight and bias


def effective_weights(layer: nn.Module, x: Tensor) -> Weights | None:
    """Weight and bias that `layer(x)` would use; None if the layer must be called.

    It must be called if it has hooks or its own `forward` (an attached LoRA, sharding), or if gradients are enabled.
    Layers of a host that offloads or patches weights return them from a method of this name.
    """
    if torch.is_grad_enabled() or layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer):
        return None
    of_host: Callable[[Tensor], Weights | None] | None = getattr(layer, "effective_weights", None)
    if of_host is not None:
        return of_host(x)
    return layer.weight, layer.bias  # type: ignore[return-value]  # tensors, of every layer in `Ops`
