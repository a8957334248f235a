"""Chunked computation: the temporary tensors of a chunk fit a budget. Chunk size changes results by rounding only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

CHUNK_BYTES = 2**28  # enough for matrix products to fill a GPU, little beside the tensors that must be whole
# Large GPUs would wait for Python between kernels of small chunks. Memory of a card, bytes, and chunks from there on;
# cards of 80 and 24 GB report a little less or more.
_OF_LARGE_CARDS = ((75e9, 2**32), (22e9, 2**30))


def chunk_bytes_for(memory: float) -> int:
    """Chunk size for a card with so many bytes of memory in all; not by what is free, so that results are the same."""
    return next((chunk_bytes for least, chunk_bytes in _OF_LARGE_CARDS if memory >= least), CHUNK_BYTES)


def items_within(budget: float, bytes_per_item: float) -> int:
    """Items in a chunk that fits the budget; at least one."""
    return max(1, int(budget // max(1, bytes_per_item)))


def spans(length: int, size: int) -> Iterator[slice]:
    """Slices of nearly equal length, none longer than `size`."""
    count = -(-length // max(1, size))
    for index in range(count):
        yield slice(index * length // count, (index + 1) * length // count)


def map_chunks(part: Callable[[slice], Tensor], length: int, size: int, out: Tensor | None = None) -> Tensor:
    """Compute spans of the first axis one after another, into one tensor.

    Args:
        part: computes a span, [n, ...].
        length, size: items in all, and in a chunk.
        out: tensor for the result, which may be the input of the chunks; ignored if gradients are enabled.
    """
    if torch.is_grad_enabled() or (size >= length and out is None):
        return part(slice(0, length))
    for span in spans(length, size):
        result = part(span)
        out = empty_map(result, (length, *result.shape[1:])) if out is None else out
        out[span] = result
        del result  # else it stays in memory while the next is computed
    assert out is not None, "there are no items"
    return out


def added(x: Tensor, part: Callable[[slice], Tensor], size: int, share: Tensor | None = None) -> Tensor:
    """Add `part` (times `share`) to x, span by span of the first axis; in place unless gradients are enabled."""
    if torch.is_grad_enabled():
        whole = part(slice(0, len(x)))
        return x + whole if share is None else torch.addcmul(x, share, whole)
    for span in spans(len(x), size):
        if share is None:
            x[span] += part(span)
        else:
            x[span].addcmul_(share, part(span))
    return x


def updated(x: Tensor, update: Callable[[slice], Tensor], size: int) -> Tensor:
    """Update x span by span of the first axis; `update` works in place, unless gradients are enabled."""
    if torch.is_grad_enabled():
        return update(slice(0, len(x)))
    for span in spans(len(x), size):
        update(span)
    return x


def plus(x: Tensor, summand: Tensor) -> Tensor:
    """x + summand, in place unless gradients are enabled."""
    return x + summand if torch.is_grad_enabled() else x.add_(summand)


def empty_map(like: Tensor, shape: Sequence[int]) -> Tensor:
    """An empty tensor; channels-last if `like` is, which is a feature map [B, C, H, W] then."""
    is_last = like.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)
