"""Chunked group norm: statistics of all chunks first, then a scale and shift for each channel.

Shapes: B items, C channels, G groups; what follows are axes of space and time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .chunks import items_within, spans
from .effective_weights import Weights, effective_weights
from .fused import scaled_silu

_Statistics = tuple[int, Tensor, Tensor]  # of each channel of a chunk: count, mean and variance, [C]


def _statistics(x_BCX: Tensor) -> _Statistics:
    axes = [axis for axis in range(x_BCX.ndim) if axis != 1]
    # one pass over x, numerically stable
    variance_C, mean_C = torch.var_mean(_wide(x_BCX), axes, correction=0)
    return x_BCX.numel() // x_BCX.shape[1], mean_C, variance_C


def _merged(chunks: Sequence[_Statistics]) -> tuple[int, Tensor, Tensor]:
    """Count, mean and sum of squared differences of all chunks together (Chan et al. 1983), [C]."""
    counts, means, variances = zip(*chunks, strict=True)
    total = sum(counts)
    exact = torch.float32 if means[0].device.type == "mps" else torch.float64  # MPS has no float64
    mean_PC, variance_PC = torch.stack(means).to(exact), torch.stack(variances).to(exact)
    # made on the device: a list of numbers would be copied there, and waited for
    equal = [(count, len(list(same))) for count, same in groupby(counts)]
    shares = torch.cat([mean_PC.new_full((chunks, 1), count / total) for count, chunks in equal])
    mean_C = (mean_PC * shares).sum(0)
    squares_C = ((variance_PC + (mean_PC - mean_C).square()) * shares).sum(0) * total
    return total, mean_C, squares_C


def affine(norm: nn.Module, weights: Weights, chunks: Iterable[Tensor], axes: int = 0) -> tuple[Tensor, Tensor]:
    """Factor and summand of each channel, [C], that a group norm over all chunks amounts to; float32 or wider.

    The chunks are [B, C, ...] each, in any memory layout; together they are one item of the norm's batch. The result
    has `axes` axes of length 1 after C.
    """
    assert isinstance(norm, nn.GroupNorm)
    count, mean_C, squares_C = _merged([_statistics(chunk_BCX) for chunk_BCX in chunks])
    mean_GC, squares_GC = mean_C.view(norm.num_groups, -1), squares_C.view(norm.num_groups, -1)
    mean_G = mean_GC.mean(1)
    spread_G = squares_GC.sum(1) + count * (mean_GC - mean_G[:, None]).square().sum(1)
    factor_C, summand_C = _per_channel(norm, weights, mean_G, spread_G / (count * mean_GC.shape[1]))
    return factor_C.view(-1, *[1] * axes), summand_C.view(-1, *[1] * axes)


def row_chunks(maps: Iterable[Tensor], chunk_bytes: int) -> Iterator[Tensor]:
    """Feature maps [..., H, W] in chunks of rows that fit the budget in float32, for `affine`."""
    for x in maps:
        rows = items_within(chunk_bytes, 4 * x[..., 0, :].numel())
        yield from (x[..., span, :] for span in spans(x.shape[-2], rows))


def _per_channel(norm: nn.GroupNorm, weights: Weights, mean_G: Tensor, variance_G: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and summand, [..., C], from statistics [..., G]."""
    per_group = norm.num_channels // norm.num_groups
    weight, bias = weights
    factor_C = (variance_G + norm.eps).rsqrt().repeat_interleave(per_group, dim=-1) * weight.to(variance_G)
    summand_C = -mean_G.repeat_interleave(per_group, dim=-1) * factor_C
    if bias is not None:
        summand_C = summand_C + bias.to(summand_C)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return factor_C.to(dtype), summand_C.to(dtype)


def norm_silu(norm: nn.Module, x_BCX: Tensor) -> Tensor:
    """Group norm and SiLU."""
    is_last = x_BCX.ndim == 4 and x_BCX.is_contiguous(memory_format=torch.channels_last)
    weights = effective_weights(norm, x_BCX) if is_last and x_BCX.is_cuda else None
    if weights is None:
        return F.silu(norm(x_BCX), inplace=not torch.is_grad_enabled())
    assert isinstance(norm, nn.GroupNorm)
    # PyTorch's CUDA kernel is channels-first only, and the next convolution would convert back
    x_BLGC = x_BCX.permute(0, 2, 3, 1).reshape(len(x_BCX), -1, norm.num_groups, x_BCX.shape[1] // norm.num_groups)
    variance_BG, mean_BG = torch.var_mean(_wide(x_BLGC), (1, 3), correction=0)
    factor_BC, summand_BC = _per_channel(norm, weights, mean_BG, variance_BG)
    return scaled_silu(x_BCX, factor_BC[:, :, None, None], summand_BC[:, :, None, None])


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
