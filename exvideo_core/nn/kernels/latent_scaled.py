"""SiLU((factor * x + summand) * gain + shift), the last two of a coarser map: 4 bytes an element in 16 bits."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS = 32, 128


@triton.jit
def _latent_scaled(
    x, factor, summand, gain, shift, out, step, L, C, W, w, down, across, cells, repeats, lead,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(L, ROWS)
    n = (tl.program_id(0) // blocks).to(tl.int64)  # frames and positions share the axis that has no limit
    row = ((tl.program_id(0) % blocks) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.program_id(1) * COLS + tl.arange(0, COLS)
    keep = (row[:, None] < L) & (column[None, :] < C)
    f = tl.load(factor + column, mask=column < C, other=0.0)
    s = tl.load(summand + column, mask=column < C, other=0.0)
    cell = ((n + lead) // repeats) * cells + (row // W // down) * w + row % W // across
    at = cell[:, None] * C + column[None, :]
    value = tl.load(x + n * step + row[:, None] * C + column[None, :], mask=keep, other=0.0).to(tl.float32)
    value = (value * f[None, :] + s[None, :]) * tl.load(gain + at, mask=keep, other=0.0).to(tl.float32)
    value += tl.load(shift + at, mask=keep, other=0.0).to(tl.float32)
    value *= tl.sigmoid(value)
    tl.store(out + n * L * C + row[:, None] * C + column[None, :], value.to(out.dtype.element_ty), mask=keep)


def launch(
    x_FLC: Tensor,
    factor_C: Tensor,
    summand_C: Tensor,
    gain_TKC: Tensor,
    shift_TKC: Tensor,
    width: int,
    latent_width: int,
    repeats: int,
    lead: int,
    out_FLC: Tensor,
) -> None:
    """Fill `out_FLC`, whose frame f has the gain and shift of latent frame (f + lead) // repeats.

    x has its channels side by side, then its positions, and frames may be apart; all others are contiguous, and
    factor and summand float32. `width` is that of x, K latent cells are rows of `latent_width`.
    """
    frames, length, channels = x_FLC.shape
    cells = gain_TKC.shape[1]
    down, across = (length // width) // (cells // latent_width), width // latent_width
    grid = (frames * triton.cdiv(length, _ROWS), triton.cdiv(channels, _COLUMNS))
    _latent_scaled[grid](
        *(x_FLC, factor_C, summand_C, gain_TKC, shift_TKC, out_FLC, x_FLC.stride(0), length, channels),
        *(width, latent_width, down, across, cells, repeats, lead),
        ROWS=_ROWS,
        COLS=_COLUMNS,
    )
