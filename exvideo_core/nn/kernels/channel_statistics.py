"""Mean and variance of each channel of an item: 2 bytes an element in 16 bits, where PyTorch moves 10.

Blocks of positions are summed apart, each around its own mean, and then merged (Chan et al. 1983).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS = 32, 64
_MIN_BLOCK, _MAX_BLOCKS = 512, 256  # positions of a block, blocks of an item


@triton.jit
def _merge(count, mean, squares, rows, other_mean, other_squares):
    total = tl.maximum(count + rows, 1.0)
    apart = other_mean - mean
    squares += other_squares + apart * apart * (count * rows / total)
    return count + rows, mean + apart * (rows / total), squares


@triton.jit
def _blocks(
    x,
    means,
    squares,
    step,
    L,
    C,
    block,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    n, k, count = tl.program_id(0).to(tl.int64), tl.program_id(1), 0.0
    column = tl.program_id(2) * COLS + tl.arange(0, COLS)
    mean, spread = tl.zeros((COLS,), tl.float32), tl.zeros((COLS,), tl.float32)
    end = tl.minimum((k + 1) * block, L)
    for start in range(k * block, end, ROWS):
        row = (start + tl.arange(0, ROWS)).to(tl.int64)
        keep = (row[:, None] < end) & (column[None, :] < C)
        value = tl.load(x + n * step + row[:, None] * C + column[None, :], mask=keep, other=0.0).to(tl.float32)
        rows = tl.minimum(end - start, ROWS).to(tl.float32)
        here = tl.sum(value, 0) / rows
        off = tl.where(keep, value - here[None, :], 0.0)
        count, mean, spread = _merge(count, mean, spread, rows, here, tl.sum(off * off, 0))
    at = (n * tl.num_programs(1) + k) * C + column
    tl.store(means + at, mean, mask=column < C)
    tl.store(squares + at, spread, mask=column < C)


@triton.jit
def _items(means, squares, mean, variance, L, C, block, K, COLS: tl.constexpr):
    n, count = tl.program_id(0).to(tl.int64), 0.0
    column = tl.program_id(1) * COLS + tl.arange(0, COLS)
    merged, spread = tl.zeros((COLS,), tl.float32), tl.zeros((COLS,), tl.float32)
    for k in range(K):
        at = (n * K + k) * C + column
        here = tl.load(means + at, mask=column < C, other=0.0)
        off = tl.load(squares + at, mask=column < C, other=0.0)
        rows = tl.minimum(L - k * block, block).to(tl.float32)
        count, merged, spread = _merge(count, merged, spread, rows, here, off)
    tl.store(mean + n * C + column, merged, mask=column < C)
    tl.store(variance + n * C + column, spread / L, mask=column < C)


def launch(x_NLC: Tensor, mean_NC: Tensor, variance_NC: Tensor) -> None:
    """Fill both; x has its channels side by side, then its positions, and items may be apart."""
    items, length, channels = x_NLC.shape
    block = max(_MIN_BLOCK, triton.cdiv(length, _MAX_BLOCKS))
    blocks, columns = triton.cdiv(length, block), triton.cdiv(channels, _COLUMNS)
    means, squares = torch.empty((2, items, blocks, channels), dtype=torch.float32, device=x_NLC.device)
    _blocks[(items, blocks, columns)](
        x_NLC, means, squares, x_NLC.stride(0), length, channels, block, ROWS=_ROWS, COLS=_COLUMNS
    )
    _items[(items, columns)](means, squares, mean_NC, variance_NC, length, channels, block, blocks, COLS=_COLUMNS)
