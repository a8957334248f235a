"""Linear layers bound to their effective weights, for many chunks of one input.

Weights are resolved once per input: a host may have to fetch or convert them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .effective_weights import Weights, effective_weights

_LARGE = 2**20  # elements of a weight from which oneDNN's setup cost is small


def bind(layer: nn.Module, like: Tensor) -> Callable[[Tensor], Tensor]:
    """Bind a linear layer or layer norm to its effective weights; the layer itself if it must be called."""
    weights = effective_weights(layer, like)
    if weights is None:
        return layer
    if isinstance(layer, nn.LayerNorm):
        return lambda x: F.layer_norm(x, layer.normalized_shape, *weights, layer.eps)
    return partial(product, weights)


def fused_qkv(layers: Sequence[nn.Module], like: Tensor) -> Callable[[Tensor], Sequence[Tensor]]:
    """Bind linear layers of one input as one matrix product: a function of x that returns all their outputs.

    The outputs are views of one tensor. The weights are stacked here, so call it for all chunks of an input; with fewer
    rows than weights the layers stay apart, because stacking would take longer than it saves.
    """
    weights = [effective_weights(layer, like) for layer in layers]
    known = [pair for pair in weights if pair is not None]
    rows = like.numel() // like.shape[-1]
    if len(known) < len(layers) or rows < sum(len(weight) for weight, _ in known):
        apart = [bind(layer, like) for layer in layers]
        return lambda x: tuple(layer(x) for layer in apart)
    weight = torch.cat([w for w, _ in known])
    biases = [bias for _, bias in known if bias is not None]
    bias = torch.cat(biases) if biases else None
    sizes = [len(w) for w, _ in known]
    return lambda x: product((weight, bias), x).split(sizes, dim=-1)


def bind_with_bias(layer: nn.Module, constant_O: Tensor, like: Tensor) -> Callable[[Tensor], Tensor]:
    """Bind a linear layer plus a constant; the constant goes into the bias if the layer need not be called."""
    weights = effective_weights(layer, like)
    if weights is None:
        return lambda x: layer(x) + constant_O
    weight, bias = weights
    total = constant_O if bias is None else bias + constant_O
    return partial(product, (weight, total))


def outputs(weights: Weights, span: slice) -> Weights:
    """Weight and bias of a slice of a linear layer's outputs."""
    weight, bias = weights
    return weight[span], None if bias is None else bias[span]


def product(weights: Weights, x: Tensor) -> Tensor:
    """A linear layer's output.

    Large float32 weights on a CPU go through oneDNN, 10 to 25 percent faster than PyTorch's default (on AMD's Zen 4).
    """
    weight, bias = weights
    if _is_for_onednn(weight, x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # as torch.compile does
    return F.linear(x, weight, bias)


def _is_for_onednn(weight: Tensor, x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and weight.numel() >= _LARGE
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )
