"""Layers computed together, from their weights as they are at the moment of the call.

Nothing is kept between calls, so a LoRA that is merged, trained weights and a host's offloading are always seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Weights = tuple[Tensor, Tensor | None]  # weight and bias


def live_weights(layer: nn.Module, x: Tensor) -> Weights | None:
    """Weight and bias that the layer would compute with on x; None if it must be called itself.

    That is so where more happens than its formula (hooks or a `forward` of its own: a LoRA beside it, sharding) and
    where gradients are wanted. A host's layer that offloads or patches its weights gives them by a method of this name.
    """
    if torch.is_grad_enabled() or layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer):
        return None
    of_host: Callable[[Tensor], Weights | None] | None = getattr(layer, "live_weights", None)
    if of_host is not None:
        return of_host(x)
    return layer.weight, layer.bias  # type: ignore[return-value]  # tensors, of every layer in `Ops`


def together(layers: Sequence[nn.Module], like: Tensor) -> Callable[[Tensor], Sequence[Tensor]]:
    """Linear layers of one input as one matrix product: a function of x that gives what each gives.

    The results are views of one tensor. Call it for all pieces of an input, for the weights are stacked here; with
    fewer rows than weights that would take longer than it saves.
    """
    weights = [live_weights(layer, like) for layer in layers]
    known = [pair for pair in weights if pair is not None]
    rows = like.numel() // like.shape[-1]
    if len(known) < len(layers) or rows < sum(len(weight) for weight, _ in known):
        return lambda x: tuple(layer(x) for layer in layers)
    weight = torch.cat([w for w, _ in known])
    biases = [bias for _, bias in known if bias is not None]
    bias = torch.cat(biases) if biases else None
    sizes = [len(w) for w, _ in known]
    return lambda x: F.linear(x, weight, bias).split(sizes, dim=-1)


def with_constant(layer: nn.Module, constant_O: Tensor, like: Tensor) -> Callable[[Tensor], Tensor]:
    """A linear layer and the addition of a constant to its result, which goes into the bias where that can be had."""
    weights = live_weights(layer, like)
    if weights is None:
        return lambda x: layer(x) + constant_O
    weight, bias = weights
    total = constant_O if bias is None else bias + constant_O
    return lambda x: F.linear(x, weight, total)
