"""Chains of elementwise operations, optionally fused into one kernel by torch.compile.

Unfused, each operation reads and writes its whole tensor. Only such chains are compiled, not blocks: blocks are
chunked, and a compiler would unroll the chunks, whose number depends on the clip. Off unless `fuse` is called, because
the gain has not been measured on a GPU.
Shapes: D channels of a head, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernels import operators, with_faster_kernel, with_kernel, with_kernel_in_place

_is_fused = False


def fuse(on: bool = True) -> None:
    """Compile chains from now on, in this process; each takes some seconds at its first use."""
    global _is_fused  # a setting, not state: results are equal within rounding
    _is_fused = on


@contextmanager
def fusing(on: bool = True) -> Iterator[None]:
    """Switch compilation of chains on or off within a block."""
    before = _is_fused
    fuse(on)
    try:
        yield
    finally:
        fuse(before)


def is_fused() -> bool:
    """Whether chains are compiled."""
    return _is_fused and not torch.is_grad_enabled()


def fusible(chain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorator: once `fuse` was called, the function runs compiled; equal within rounding.

    With gradients enabled it runs uncompiled.
    """

    @cache
    def compiled() -> Callable[..., Tensor]:
        return torch.compile(chain, dynamic=True)  # here, because it loads the whole compiler

    @wraps(chain)
    def either(*tensors: Tensor) -> Tensor:
        return compiled()(*tensors) if is_fused() else chain(*tensors)

    return either


@with_kernel(operators.gated_gelu)
@fusible
def gated_gelu(x: Tensor) -> Tensor:
    """GEGLU (arXiv:2002.05202), [..., 2 C] to [..., C]: the first half times GELU of the second."""
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


@with_faster_kernel(operators.gated_product)
def gated_product(x: Tensor, weight_GC: Tensor, bias_G: Tensor | None) -> Tensor:
    """`gated_gelu` of a linear layer, [..., C] to [..., G / 2]."""
    return gated_gelu(F.linear(x, weight_GC, bias_G))


@with_kernel(operators.gelu_product)
def gelu_product(x: Tensor, weight_GC: Tensor, bias_G: Tensor | None) -> Tensor:
    """GELU, in its tanh approximation, of a linear layer, [..., C] to [..., G]."""
    return F.gelu(F.linear(x, weight_GC, bias_G), approximate="tanh")


@with_kernel(operators.scaled)
def scaled(x_BCX: Tensor, factor: Tensor, summand: Tensor) -> Tensor:
    """factor * x + summand, computed in float32; without gradients."""
    # addcmul's own result would be laid out like the summand
    wide = torch.empty_like(x_BCX, dtype=torch.promote_types(x_BCX.dtype, summand.dtype))
    return torch.addcmul(summand, x_BCX, factor, out=wide).to(x_BCX.dtype)


@with_kernel(operators.scaled_silu)
@fusible
def scaled_silu(x: Tensor, factor: Tensor, summand: Tensor) -> Tensor:
    """SiLU(factor * x + summand), computed in float32."""
    if torch.is_grad_enabled():
        return F.silu(torch.addcmul(summand, x, factor)).to(x.dtype)
    # addcmul's own result would be laid out like the summand
    wide = torch.empty_like(x, dtype=torch.promote_types(x.dtype, summand.dtype))
    return F.silu(torch.addcmul(summand, x, factor, out=wide), inplace=True).to(x.dtype)


@with_kernel_in_place(operators.scaled_silu_into)
def scaled_silu_into(out_BCX: Tensor, x_BCX: Tensor, factor: Tensor, summand: Tensor) -> Tensor:
    """`scaled_silu` of x, written into a part of a larger tensor."""
    return out_BCX.copy_(scaled_silu(x_BCX, factor, summand))


@with_kernel_in_place(operators.added_residual)
def added_residual(x_BCX: Tensor, bias_BC: Tensor, share: Tensor | None, *residuals_BCX: Tensor) -> Tensor:
    """x + share * (residuals + bias), in place on x; the bias, [C] or [B, C], is what a convolution left out.

    Without a share, it is 1.
    """
    constant = bias_BC.view(*bias_BC.shape, *[1] * (x_BCX.ndim - 2)).to(x_BCX.dtype)
    if share is not None:
        constant = share * constant
    for residual_BCX in residuals_BCX:
        x_BCX = x_BCX.add_(residual_BCX) if share is None else x_BCX.addcmul_(share, residual_BCX)
    return x_BCX.add_(constant)


@fusible
def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring pairs of channels (RoPE), in float32; x is [..., D], cos and sin [..., D / 2].

    In real numbers, because the compiler fuses no complex ones.
    """
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2).to(x.dtype)
