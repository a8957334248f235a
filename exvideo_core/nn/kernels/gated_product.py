"""GEGLU with its linear layer, (x V + v) * GELU(x G + g): the products never leave the processor.

PyTorch writes both products, reads them again and writes the result: 10 bytes for each of its 2 here, in 16 bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BANDS = 8  # rows of tiles that are computed side by side, so that their weights stay in the cache
# rows and columns of a tile, depth of a step, warps, steps in flight: of Hopper and the large Blackwell, and of others
_LARGE, _USUAL = (128, 128, 64, 8, 3), (128, 64, 32, 4, 4)


@triton.jit
def _gated_product(
    x, weight, bias, out, R, H, C, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, BANDS: tl.constexpr
):
    tile, across = tl.program_id(0), tl.cdiv(H, COLS)
    band = tile // (BANDS * across)
    height = tl.minimum(tl.cdiv(R, ROWS) - band * BANDS, BANDS)
    inside = tile % (BANDS * across)
    row = ((band * BANDS + inside % height) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = (inside // height) * COLS + tl.arange(0, COLS)
    step = tl.arange(0, DEPTH)
    value, gate = tl.zeros((ROWS, COLS), tl.float32), tl.zeros((ROWS, COLS), tl.float32)
    for start in range(0, C, DEPTH):
        depth = start + step
        a = tl.load(x + row[:, None] * C + depth[None, :], mask=(row[:, None] < R) & (depth[None, :] < C), other=0.0)
        keep = (depth[:, None] < C) & (column[None, :] < H)
        at = column[None, :] * C + depth[:, None]
        value = tl.dot(a, tl.load(weight + at, mask=keep, other=0.0), value)
        gate = tl.dot(a, tl.load(weight + H * C + at, mask=keep, other=0.0), gate)
    value += tl.load(bias + column, mask=column < H, other=0.0).to(tl.float32)[None, :]
    gate += tl.load(bias + H + column, mask=column < H, other=0.0).to(tl.float32)[None, :]
    result = value * (0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476)))
    keep = (row[:, None] < R) & (column[None, :] < H)
    tl.store(out + row[:, None] * H + column[None, :], result.to(out.dtype.element_ty), mask=keep)


def tiles(capability: tuple[int, int]) -> tuple[int, int, int, int, int]:
    """Rows and columns of a tile, depth of a step, warps and steps in flight, for a compute capability."""
    return _LARGE if capability[0] in (9, 10) else _USUAL


def launch(x_RC: Tensor, weight_GC: Tensor, bias_G: Tensor, out_RH: Tensor) -> None:
    """Fill the last; all are contiguous, and the first half of the weights is V, the second G."""
    (rows, channels), hidden = x_RC.shape, out_RH.shape[1]
    is_nvidia = x_RC.is_cuda and not torch.version.hip
    height, width, depth, warps, stages = tiles(torch.cuda.get_device_capability()) if is_nvidia else _USUAL
    grid = (triton.cdiv(rows, height) * triton.cdiv(hidden, width),)
    _gated_product[grid](
        *(x_RC, weight_GC, bias_G, out_RH, rows, hidden, channels),
        ROWS=height,
        COLS=width,
        DEPTH=depth,
        BANDS=_BANDS,
        num_warps=warps,
        num_stages=stages,
    )
