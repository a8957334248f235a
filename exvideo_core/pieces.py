"""Work cut into pieces whose temporary tensors fit a budget; where it is cut changes results by rounding at most."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

PIECE_BYTES = 2**28  # enough for matrix products to fill a large GPU, little beside the tensors that must be whole


def items_within(budget: float, bytes_per_item: float) -> int:
    """How many items a piece may have; at least one, whatever the budget."""
    return max(1, int(budget // max(1, bytes_per_item)))


def spans(length: int, size: int) -> Iterator[slice]:
    """Pieces of nearly equal size, none larger than `size`."""
    count = -(-length // max(1, size))
    for index in range(count):
        yield slice(index * length // count, (index + 1) * length // count)


def in_pieces(function: Callable[[Tensor], Tensor], x: Tensor, size: int, out: Tensor | None = None) -> Tensor:
    """`function` of x, computed on pieces of the first axis.

    Args:
        function: of every item by itself; the number of items stays the same.
        x: [n, ...].
        size: items in a piece.
        out: where to put the result, which may be x itself; not where gradients are wanted.
    """
    if size >= len(x):
        return function(x) if out is None else out.copy_(function(x))
    if torch.is_grad_enabled():
        return torch.cat([function(x[span]) for span in spans(len(x), size)])
    for span in spans(len(x), size):
        part = function(x[span])
        if out is None:
            out = empty_like_part(part, len(x))
        out[span] = part
        del part  # else it would live on while the next is computed
    assert out is not None
    return out


def empty_like_part(part: Tensor, length: int) -> Tensor:
    """A tensor for `length` items, laid out as one part of them is."""
    shape = (length, *part.shape[1:])
    if part.ndim == 4 and part.is_contiguous(memory_format=torch.channels_last):
        return torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=torch.channels_last)
    return part.new_empty(shape)
