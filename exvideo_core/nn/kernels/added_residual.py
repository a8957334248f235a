"""x + share * (residuals + bias), in place: 6 bytes an element in 16 bits, where cuDNN's bias and a sum move 10.

There are one to three residuals; each further one adds 2 bytes, where a sum of its own moves 6.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS = 32, 128


@triton.jit
def _added_residual(
    x, first, second, third, bias, share, step, first_step, second_step, third_step, bias_step, L, C,
    COUNT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(L, ROWS)
    n = (tl.program_id(0) // blocks).to(tl.int64)  # items and positions share the axis that has no limit
    row = ((tl.program_id(0) % blocks) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.program_id(1) * COLS + tl.arange(0, COLS)
    keep = (row[:, None] < L) & (column[None, :] < C)
    cell = row[:, None] * C + column[None, :]
    constant = tl.load(bias + n * bias_step + column, mask=column < C, other=0.0).to(tl.float32)
    added = tl.load(first + n * first_step + cell, mask=keep, other=0.0).to(tl.float32) + constant[None, :]
    if COUNT > 1:
        added += tl.load(second + n * second_step + cell, mask=keep, other=0.0).to(tl.float32)
    if COUNT > 2:
        added += tl.load(third + n * third_step + cell, mask=keep, other=0.0).to(tl.float32)
    value = tl.load(x + n * step + cell, mask=keep, other=0.0).to(tl.float32) + tl.load(share).to(tl.float32) * added
    tl.store(x + n * step + cell, value.to(x.dtype.element_ty), mask=keep)


def launch(x_NLC: Tensor, residuals_NLC: list[Tensor], bias_NC: Tensor, share: Tensor) -> None:
    """Add to x; all have their channels side by side, then their positions, and items may be apart.

    The bias is contiguous [N, C], or [1, C] for all items.
    """
    items, length, channels = x_NLC.shape
    three = (residuals_NLC * 3)[:3]  # those beyond their number are not read
    steps = [each.stride(0) for each in (x_NLC, *three)]
    grid = (items * triton.cdiv(length, _ROWS), triton.cdiv(channels, _COLUMNS))
    _added_residual[grid](
        *(x_NLC, *three, bias_NC, share, *steps, channels if len(bias_NC) > 1 else 0, length, channels),
        COUNT=len(residuals_NLC),
        ROWS=_ROWS,
        COLS=_COLUMNS,
    )
