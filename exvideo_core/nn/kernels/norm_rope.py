"""Layer norm of each head of q or k and its rotary positions, in place: 4 bytes an element in 16 bits, not 24."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_ROWS = 16  # heads of tokens


@triton.jit
def _norm_rope(x, weight, bias, factors, step, other_step, N, B, R, eps, ROWS: tl.constexpr, D: tl.constexpr):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, D)
    keep = row[:, None] < R
    cell = row[:, None] * D + column[None, :]
    value = tl.load(x + cell, mask=keep, other=0.0).to(tl.float32)
    off = value - (tl.sum(value, 1) / D)[:, None]
    off *= tl.rsqrt(tl.sum(off * off, 1) / D + eps)[:, None]
    off = off * tl.load(weight + column).to(tl.float32)[None, :] + tl.load(bias + column).to(tl.float32)[None, :]
    token = row // N
    at = (token // B) * step + (token % B) * other_step
    factor = tl.load(factors + at[:, None] + column[None, :], mask=keep, other=0.0)
    real, imaginary = tl.split(tl.reshape(off, (ROWS, D // 2, 2)))
    cos, sin = tl.split(tl.reshape(factor, (ROWS, D // 2, 2)))
    rotated = tl.join(real * cos - imaginary * sin, imaginary * cos + real * sin)
    tl.store(x + cell, tl.reshape(rotated, (ROWS, D)).to(x.dtype.element_ty), mask=keep)


def launch(x_LBND: Tensor, weight_D: Tensor, bias_D: Tensor, factors_LBD: Tensor, eps: float) -> None:
    """Normalise and rotate x, which is contiguous; D is a power of two.

    The factors are real and imaginary parts in turn, float32; a clip's are side by side, [L, B or 1, D].
    """
    length, batch, heads, dim = x_LBND.shape
    rows = length * batch * heads
    other_step = factors_LBD.stride(1) if factors_LBD.shape[1] > 1 else 0
    _norm_rope[(triton.cdiv(rows, _ROWS),)](
        *(x_LBND, weight_D, bias_D, factors_LBD, factors_LBD.stride(0), other_step, heads, batch, rows, eps),
        ROWS=_ROWS,
        D=dim,
    )
