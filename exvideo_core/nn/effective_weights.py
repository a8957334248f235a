"""The weights of a layer as they are at the moment of a call, for who computes with them itself.

Nothing is kept between calls, so a LoRA that is merged, trained weights and a host's offloading are always seen.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Weights = tuple[Tensor, Tensor | None]  # weight and bias


def effective_weights(layer: nn.Module, x: Tensor) -> Weights | None:
    """Weight and bias that the layer would compute with on x; None if it must be called itself.

    That is so where more happens than its formula (hooks or a `forward` of its own: a LoRA beside it, sharding) and
    where gradients are wanted. A host's layer that offloads or patches its weights gives them by a method of this name.
    """
    if torch.is_grad_enabled() or layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer):
        return None
    of_host: Callable[[Tensor], Weights | None] | None = getattr(layer, "effective_weights", None)
    if of_host is not None:
        return of_host(x)
    return layer.weight, layer.bias  # type: ignore[return-value]  # tensors, of every layer in `Ops`
