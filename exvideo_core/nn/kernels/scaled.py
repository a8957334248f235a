"""factor * x + summand, and SiLU, the last steps of a group norm: 4 bytes an element in 16 bits; PyTorch moves 20."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS = 32, 128


@triton.jit
def _scaled(
    x, out, factor, summand, step, other_step, L, C, SILU: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr
):
    blocks = tl.cdiv(L, ROWS)
    n = (tl.program_id(0) // blocks).to(tl.int64)  # items and positions share the axis that has no limit
    row = ((tl.program_id(0) % blocks) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.program_id(1) * COLS + tl.arange(0, COLS)
    keep = (row[:, None] < L) & (column[None, :] < C)
    cell = row[:, None] * C + column[None, :]
    f = tl.load(factor + n * other_step + column, mask=column < C, other=0.0).to(tl.float32)
    s = tl.load(summand + n * other_step + column, mask=column < C, other=0.0).to(tl.float32)
    value = tl.load(x + n * step + cell, mask=keep, other=0.0).to(tl.float32) * f[None, :] + s[None, :]
    if SILU:
        value *= tl.sigmoid(value)
    tl.store(out + n * L * C + cell, value.to(out.dtype.element_ty), mask=keep)


def launch(x_NLC: Tensor, factor_NC: Tensor, summand_NC: Tensor, silu: bool, out_NLC: Tensor) -> None:
    """Fill `out_NLC`; factor and summand are contiguous [N, C], or [1, C] for all items.

    x has its channels side by side, then its positions, and items may be apart.
    """
    items, length, channels = x_NLC.shape
    other_step = channels if len(factor_NC) > 1 else 0
    grid = (items * triton.cdiv(length, _ROWS), triton.cdiv(channels, _COLUMNS))
    _scaled[grid](
        *(x_NLC, out_NLC, factor_NC, summand_NC, x_NLC.stride(0), other_step, length, channels),
        SILU=silu,
        ROWS=_ROWS,
        COLS=_COLUMNS,
    )
