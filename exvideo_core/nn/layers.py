"""Layers of several models: the layer namespace, group norms, sinusoidal embeddings, feed-forwards.

Shapes: L tokens, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .effective_weights import effective_weights
from .fused import gated_gelu, gated_product
from .linear import bind


class Ops(Protocol):
    """Layer classes of a model: `torch.nn`, or a host's namespace that casts and offloads weights."""

    Linear: Any
    Conv2d: Any
    Conv3d: Any
    GroupNorm: Any
    LayerNorm: Any
    Embedding: Any


def group_norm(channels: int, ops: Ops, eps: float = 1e-6) -> nn.Module:
    """A GroupNorm with 32 groups as published; 8 where 32 does not divide the width (narrow models)."""
    return ops.GroupNorm(32 if channels % 32 == 0 else 8, channels, eps=eps)


def sinusoid(values: Tensor, channels: int) -> Tensor:
    """Sinusoidal embedding: [cos | sin] of geometric frequencies from 1 down to 1/10000.

    Values are [n] of any numeric dtype: steps, frame numbers, ids. The result is [n, channels] float32, channels even.
    """
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=values.device) / half
    angles = values.float()[:, None] * torch.exp(-math.log(10000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class FeedForward(nn.Module):
    """C -> 4C gated -> C (GEGLU, arXiv:2002.05202); called through `bind`."""

    def __init__(self, channels: int, ops: Ops) -> None:
        super().__init__()
        gated = nn.ModuleDict({"proj": ops.Linear(channels, 8 * channels)})
        # index 1 is a dropout in the published code
        self.net = nn.Sequential(gated, nn.Identity(), ops.Linear(4 * channels, channels))

    def bind(self, like: Tensor) -> tuple[Callable[[Tensor], Tensor], nn.Module]:
        """The gated tokens [L, 4 C] as a function of chunks of tokens [L, C]; and the layer that follows."""
        first, last = (self.net.get_submodule(name) for name in ("0.proj", "2"))
        weights = effective_weights(first, like) if like.is_cuda else None
        if weights is not None:
            return lambda x_LC: gated_product(x_LC, *weights), last
        inner = bind(first, like)
        return lambda x_LC: gated_gelu(inner(x_LC)), last
