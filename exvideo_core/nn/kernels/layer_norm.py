"""Layer norm of x + shift with its factor and summand: 4 bytes an element in 16 bits, whatever the rows' layout."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_TILE = 4096  # elements


@triton.jit
def _layer_norm(
    x, shift, factor, summand, out, step, other_step, batch_step, part_step, B, R, C, split, eps,
    SHIFTED: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, COLS)
    token, item = row // B, row % B
    keep = (row[:, None] < R) & (column[None, :] < C)
    cell = token[:, None] * step + item[:, None] * other_step + column[None, :]
    value = tl.load(x + cell, mask=keep, other=0.0).to(tl.float32)
    if SHIFTED:
        value += tl.load(shift + column, mask=column < C, other=0.0).to(tl.float32)[None, :]
    off = tl.where(keep, value - (tl.sum(value, 1) / C)[:, None], 0.0)
    off *= tl.rsqrt(tl.sum(off * off, 1) / C + eps)[:, None]
    scale = ((token >= split) * part_step + item * batch_step)[:, None] + column[None, :]
    f = tl.load(factor + scale, mask=keep, other=0.0).to(tl.float32)
    s = tl.load(summand + scale, mask=keep, other=0.0).to(tl.float32)
    tl.store(out + row[:, None] * C + column[None, :], (off * f + s).to(out.dtype.element_ty), mask=keep)


def launch(
    x_LBC: Tensor,
    shift_C: Tensor | None,
    factor_PBC: Tensor,
    summand_PBC: Tensor,
    split: int,
    eps: float,
    out_LBC: Tensor,
) -> None:
    """Fill `out_LBC`, which is contiguous; x has its channels side by side.

    Factor and summand are contiguous: [1, 1, C], or [2, B, C] for the tokens before `split` and for those from it on.
    """
    length, batch, channels = x_LBC.shape
    rows, columns = length * batch, triton.next_power_of_2(channels)
    height = max(1, _TILE // columns)
    part_step, batch_step = (size * (len(factor_PBC) > 1) for size in (batch * channels, channels))
    _layer_norm[(triton.cdiv(rows, height),)](
        *(x_LBC, out_LBC if shift_C is None else shift_C, factor_PBC, summand_PBC, out_LBC),
        *(x_LBC.stride(0), x_LBC.stride(1), batch_step, part_step, batch, rows, channels, split, eps),
        SHIFTED=shift_C is not None,
        ROWS=height,
        COLS=columns,
    )
