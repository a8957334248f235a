"""Layer norms of inputs that lack a constant, and layer norms that are modulated; one kernel each on a GPU.

Shapes: L tokens, B clips, C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .effective_weights import effective_weights
from .kernels import operators, with_kernel
from .linear import bind


@with_kernel(operators.shifted_layer_norm)
def shifted_layer_norm(x: Tensor, shift_C: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float) -> Tensor:
    """Layer norm of x + shift."""
    return F.layer_norm(x + shift_C.to(x.dtype), weight_C.shape, weight_C, bias_C, eps)


@with_kernel(operators.modulated_layer_norm)
def modulated_layer_norm(x_LBC: Tensor, factor_PBC: Tensor, summand_PBC: Tensor, split: int, eps: float) -> Tensor:
    """norm(x) * factor + summand; their first part is for the tokens before `split`, their second for the others."""
    wide = torch.promote_types(x_LBC.dtype, torch.float32)
    normed_LBC = F.layer_norm(x_LBC.to(wide), x_LBC.shape[-1:], eps=eps)
    for part, tokens in enumerate((normed_LBC[:split], normed_LBC[split:])):
        tokens.mul_(factor_PBC[part]).add_(summand_PBC[part])
    return normed_LBC.to(x_LBC.dtype)


def bind_norm(norm: nn.Module, like: Tensor, shift_C: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """Bind a layer norm to its effective weights; the layer itself if it must be called.

    `shift_C` is a constant that belongs to the inputs, and that is not in them.
    """
    if shift_C is None:
        return bind(norm, like)
    weight_C, bias_C = effective_weights(norm, like) or (None, None)
    if weight_C is None or bias_C is None:
        normalise = bind(norm, like)
        return lambda x: normalise(x + shift_C.to(x.dtype))
    assert isinstance(norm, nn.LayerNorm)
    eps = norm.eps
    return lambda x: shifted_layer_norm(x, shift_C, weight_C, bias_C, eps)
