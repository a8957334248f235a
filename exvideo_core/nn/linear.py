"""Linear layers bound to their effective weights, for many chunks of one input.

Weights are resolved once per input: a host may have to fetch or convert them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .chunks import plus
from .effective_weights import Weights, effective_weights
from .kernels import are_tried

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


def bind_shifted(layer: nn.Module, like: Tensor, shift_C: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Bind a linear layer to inputs that lack a constant: a function of x that is the layer of x + shift."""
    weights = effective_weights(layer, like)
    if shift_C is None or weights is None:
        return bind(layer, like) if shift_C is None else lambda x: layer(x + shift_C.to(x.dtype))
    weight_OC, bias_O = weights
    moved_O = weight_OC.to(shift_C.dtype) @ shift_C
    total_O = moved_O if bias_O is None else moved_O + bias_O
    return partial(product, (weight_OC, total_O.to(weight_OC.dtype)))


def bind_sum(
    layer: nn.Module, like: Tensor, constant_O: Tensor | None
) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor | None]:
    """x + layer(y) + constant as a function of x and y, in place unless gradients are enabled; and what it leaves out.

    Where kernels are tried on a GPU, the sum is part of the matrix product. A product adds no bias then: bias and
    constant are left out, [O] in float32 or wider, for the next norm to add (`bind_norm`). Else nothing is, None.
    """
    weights = effective_weights(layer, like)
    if weights is None:
        return lambda x, y: plus(x, layer(y) if constant_O is None else layer(y) + constant_O), None
    weight_OC, bias_O = weights
    if are_tried(like):
        wide = torch.promote_types(like.dtype, torch.float32)
        left = (None if each is None else each.to(wide) for each in (bias_O, constant_O))
        return partial(_add_product, weight_OC), total(*left)
    total_O = total(bias_O, constant_O)
    return lambda x, y: plus(x, product((weight_OC, total_O), y)), None


def _add_product(weight_OC: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """x + y W^T in place, for [R, O] or [B, R, O] and y likewise; items of a batch may be interleaved in memory."""
    if x.ndim == 2 or x.is_contiguous():
        rows = x.flatten(0, -2)
        torch.addmm(rows, y.reshape(-1, y.shape[-1]), weight_OC.t(), out=rows)
        return x
    # a few large products
    rows, others = (x, y) if x.shape[0] <= x.shape[1] else (x.transpose(0, 1), y.transpose(0, 1))
    torch.baddbmm(rows, others, weight_OC.t().expand(len(rows), -1, -1), out=rows)
    return x


def total(*constants: Tensor | None) -> Tensor | None:
    """Sum of the constants that are not None, if any."""
    known = [each for each in constants if each is not None]
    return reduce(torch.add, known) if known else None


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
