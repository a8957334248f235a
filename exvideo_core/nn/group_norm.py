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
from .kernels import operators, with_kernel

_Statistics = tuple[int, Tensor, Tensor]  # of N equal parts: elements of a channel, means and variances [N, C]


@with_kernel(operators.channel_statistics)
def channel_statistics(x_BCX: Tensor) -> tuple[Tensor, ...]:
    """Mean and variance of each channel in each image of [B, C, H, W] or [B, C, T, H, W]: [N, C], N = B or B T."""
    x_NHWC = x_BCX.movedim(1, -1).flatten(0, -4)
    variance_NC, mean_NC = torch.var_mean(_wide(x_NHWC), (1, 2), correction=0)
    return mean_NC, variance_NC


def _statistics(x_BCX: Tensor) -> _Statistics:
    if x_BCX.is_cuda and x_BCX.ndim >= 4:
        mean_NC, variance_NC = channel_statistics(x_BCX)
        return x_BCX.numel() // mean_NC.numel(), mean_NC, variance_NC
    axes = [axis for axis in range(x_BCX.ndim) if axis != 1]
    # one pass over x, numerically stable
    variance_C, mean_C = torch.var_mean(_wide(x_BCX), axes, correction=0)
    return x_BCX.numel() // x_BCX.shape[1], mean_C[None], variance_C[None]


def _merged(chunks: Sequence[_Statistics]) -> tuple[int, Tensor, Tensor]:
    """Count, mean and sum of squared differences of all chunks together (Chan et al. 1983), [C]."""
    _, means, variances = zip(*chunks, strict=True)
    counts_P = [count for count, mean_NC, _ in chunks for _ in range(len(mean_NC))]
    total = sum(counts_P)
    exact = torch.float32 if means[0].device.type == "mps" else torch.float64  # MPS has no float64
    mean_PC, variance_PC = torch.cat(means).to(exact), torch.cat(variances).to(exact)
    # made on the device: a list of numbers would be copied there, and waited for
    equal = [(count, len(list(same))) for count, same in groupby(counts_P)]
    shares = torch.cat([mean_PC.new_full((parts, 1), count / total) for count, parts in equal])
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
    is_clip = x_BCX.ndim == 5 and len(x_BCX) == 1
    # PyTorch's CUDA kernel is channels-first only, and the next convolution would convert back
    weights = effective_weights(norm, x_BCX) if (is_last or is_clip) and x_BCX.is_cuda else None
    if weights is None:
        return F.silu(norm(x_BCX), inplace=not torch.is_grad_enabled())
    if is_clip:
        return scaled_silu(x_BCX, *affine(norm, weights, [x_BCX], axes=3))
    assert isinstance(norm, nn.GroupNorm)
    mean_BC, variance_BC = channel_statistics(x_BCX)
    mean_BGC, variance_BGC = (each.unflatten(1, (norm.num_groups, -1)) for each in (mean_BC, variance_BC))
    mean_BG = mean_BGC.mean(2)
    variance_BG = (variance_BGC + (mean_BGC - mean_BG[..., None]).square()).mean(2)
    factor_BC, summand_BC = _per_channel(norm, weights, mean_BG, variance_BG)
    return scaled_silu(x_BCX, factor_BC[:, :, None, None], summand_BC[:, :, None, None])


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
