"""Chunked group norm: statistics of all chunks first, then a scale and shift for each channel.

Shapes: B items, C channels, G groups; what follows are axes of space and time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .chunks import items_within, plus, spans
from .effective_weights import Weights, effective_weights
from .fused import scaled, scaled_silu
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


def _merged(chunks: Sequence[_Statistics]) -> tuple[Tensor, Tensor]:
    """Means and variances of parts of all chunks, [1, P, C]: one part for all, unless they are equally large."""
    _, means, variances = zip(*chunks, strict=True)
    counts_P = [count for count, mean_NC, _ in chunks for _ in range(len(mean_NC))]
    if means[0].is_cuda and len(set(counts_P)) == 1:
        return torch.cat(means)[None], torch.cat(variances)[None]
    exact = torch.float32 if means[0].device.type == "mps" else torch.float64  # MPS has no float64
    mean_PC, variance_PC = torch.cat(means).to(exact), torch.cat(variances).to(exact)
    # made on the device: a list of numbers would be copied there, and waited for
    equal = [(count, len(list(same))) for count, same in groupby(counts_P)]
    shares = torch.cat([mean_PC.new_full((parts, 1), count / sum(counts_P)) for count, parts in equal])
    mean_C = (mean_PC * shares).sum(0)  # Chan et al. 1983
    variance_C = ((variance_PC + (mean_PC - mean_C).square()) * shares).sum(0)
    dtype = means[0].dtype if means[0].is_cuda else exact
    return mean_C.to(dtype)[None, None], variance_C.to(dtype)[None, None]


@with_kernel(operators.group_scale)
def group_scale(
    mean_NPC: Tensor,
    variance_NPC: Tensor,
    weight_C: Tensor,
    bias_C: Tensor | None,
    shift_NC: Tensor | None,
    groups: int,
    eps: float,
) -> tuple[Tensor, ...]:
    """Factor and summand [N, C] that a group norm amounts to, from statistics of P equal parts of each item.

    `shift_NC`, or [1, C], is a constant that belongs to the input, and that is not in the statistics.
    """
    if shift_NC is not None:
        mean_NPC = mean_NPC + shift_NC[:, None]
    mean_NPGC, variance_NPGC = (each.unflatten(2, (groups, -1)) for each in (mean_NPC, variance_NPC))
    mean_NG = mean_NPGC.mean((1, 3))
    variance_NG = (variance_NPGC + (mean_NPGC - mean_NG[:, None, :, None]).square()).mean((1, 3))
    mean_NC, scale_NC = (
        each.repeat_interleave(len(weight_C) // groups, dim=1) for each in (mean_NG, (variance_NG + eps).rsqrt())
    )
    factor_NC = scale_NC * weight_C.to(scale_NC)
    summand_NC = -mean_NC * factor_NC if shift_NC is None else (shift_NC - mean_NC) * factor_NC
    if bias_C is not None:
        summand_NC = summand_NC + bias_C.to(summand_NC)
    dtype = torch.promote_types(weight_C.dtype, torch.float32)
    return factor_NC.to(dtype), summand_NC.to(dtype)


def affine(
    norm: nn.Module, weights: Weights, chunks: Iterable[Tensor], axes: int = 0, shift_C: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Factor and summand of each channel, [C], that a group norm over all chunks amounts to; float32 or wider.

    The chunks are [B, C, ...] each, in any memory layout; together they are one item of the norm's batch. The result
    has `axes` axes of length 1 after C. `shift_C` is a constant that belongs to the chunks, and that is not in them.
    """
    assert isinstance(norm, nn.GroupNorm)
    statistics = _merged([_statistics(chunk_BCX) for chunk_BCX in chunks])
    shift_NC = None if shift_C is None else shift_C[None]
    factor_NC, summand_NC = group_scale(*statistics, *weights, shift_NC, norm.num_groups, norm.eps)
    return factor_NC.view(-1, *[1] * axes), summand_NC.view(-1, *[1] * axes)


def row_chunks(maps: Iterable[Tensor], chunk_bytes: int) -> Iterator[Tensor]:
    """Feature maps [..., H, W] in chunks of rows that fit the budget in float32, for `affine`."""
    for x in maps:
        rows = items_within(chunk_bytes, 4 * x[..., 0, :].numel())
        yield from (x[..., span, :] for span in spans(x.shape[-2], rows))


def norm_silu(norm: nn.Module, x_BCX: Tensor, shift_NC: Tensor | None = None) -> Tensor:
    """Group norm and SiLU; `shift_NC`, or [1, C], belongs to x and is not in it: a bias, or an embedding."""
    scale = _scale_on_gpu(norm, x_BCX, shift_NC)
    if scale is not None:
        return scaled_silu(x_BCX, *scale)
    if shift_NC is not None:
        x_BCX = plus(x_BCX, shift_NC.view(*shift_NC.shape, *[1] * (x_BCX.ndim - 2)))
    return F.silu(norm(x_BCX), inplace=not torch.is_grad_enabled())


def normed(norm: nn.Module, x_BCX: Tensor) -> Tensor:
    """Group norm."""
    scale = _scale_on_gpu(norm, x_BCX)
    return norm(x_BCX) if scale is None else scaled(x_BCX, *scale)


def _scale_on_gpu(norm: nn.Module, x_BCX: Tensor, shift_NC: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
    """Factor and summand of a norm on a GPU, where PyTorch's own would have to be laid out channels-first and back.

    Of feature maps that are channels-last, and of clips [1, C, T, H, W]; None for others.
    """
    is_last = x_BCX.ndim == 4 and x_BCX.is_contiguous(memory_format=torch.channels_last)
    is_clip = x_BCX.ndim == 5 and len(x_BCX) == 1
    weights = effective_weights(norm, x_BCX) if (is_last or is_clip) and x_BCX.is_cuda else None
    if weights is None:
        return None
    if is_clip:
        return affine(norm, weights, [x_BCX], axes=3, shift_C=None if shift_NC is None else shift_NC[0])
    assert isinstance(norm, nn.GroupNorm)
    mean_BC, variance_BC = channel_statistics(x_BCX)
    statistics = mean_BC[:, None], variance_BC[:, None]
    factor_BC, summand_BC = group_scale(*statistics, *weights, shift_NC, norm.num_groups, norm.eps)
    return factor_BC[..., None, None], summand_BC[..., None, None]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
