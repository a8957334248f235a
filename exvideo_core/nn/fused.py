"""Chains of elementwise operations that torch.compile makes one kernel of, where that is asked for.

Computed one by one, each operation reads and writes its whole tensor. Only such chains are compiled, not blocks: blocks
work in pieces whose number depends on the clip, which a compiler would unroll. Off unless `fuse` is called, for what it
saves has not been measured on a GPU.
Shapes: D channels of a head, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps

import torch
import torch.nn.functional as F
from torch import Tensor

_is_fused = False


def fuse(on: bool = True) -> None:
    """Compile chains from now on, in this process; each takes some seconds when it is first used."""
    global _is_fused  # how to compute, not what
    _is_fused = on


@contextmanager
def fusing(on: bool = True) -> Iterator[None]:
    """Compile chains inside of this, or not, and after it as before."""
    before = _is_fused
    fuse(on)
    try:
        yield
    finally:
        fuse(before)


def is_fused() -> bool:
    """Whether chains are compiled now."""
    return _is_fused and not torch.is_grad_enabled()


def fusible(chain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, or what torch.compile makes of it once `fuse` was called; equal within rounding.

    With gradients it is the function itself: training compiles, if at all, by its own choice.
    """

    @cache
    def compiled() -> Callable[..., Tensor]:
        return torch.compile(chain, dynamic=True)  # here, for it loads the whole compiler

    @wraps(chain)
    def either(*tensors: Tensor) -> Tensor:
        return compiled()(*tensors) if is_fused() else chain(*tensors)

    return either


@fusible
def gated_gelu(x: Tensor) -> Tensor:
    """[..., 2 C] to [..., C]: the first half, times GELU of the second (arXiv:2002.05202)."""
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


@fusible
def scaled_silu(x: Tensor, factor: Tensor, summand: Tensor) -> Tensor:
    """SiLU of factor x + summand, in float32 but for the result."""
    return F.silu(torch.addcmul(summand, x, factor), inplace=True).to(x.dtype)


@fusible
def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Neighbouring pairs of channels turned, in float32; [..., D], cos and sin broadcast over [..., D / 2].

    In real numbers: of complex ones the compiler makes no kernels.
    """
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2).to(x.dtype)
