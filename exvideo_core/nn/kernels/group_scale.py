"""Factor and summand of each channel from statistics of its group: one launch, where PyTorch takes fifteen."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_PARTS = 32  # at a time


@triton.jit
def _group_scale(
    mean, variance, weight, bias, shift, factor, summand, P, C, G, step, eps, PARTS: tl.constexpr, COLS: tl.constexpr
):
    n, g = tl.program_id(0).to(tl.int64), tl.program_id(1)
    width, column = C // G, tl.arange(0, COLS)
    channel, inside = g * width + column, column < width
    moved = tl.load(shift + n * step + channel, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((COLS,), tl.float32)
    for start in range(0, P, PARTS):
        part = start + tl.arange(0, PARTS)
        keep = (part[:, None] < P) & inside[None, :]
        here = tl.load(mean + (n * P + part[:, None]) * C + channel[None, :], mask=keep, other=0.0)
        total += tl.sum(here, 0)
    center = tl.sum(total + P * moved, 0) / (P * width)
    spread = tl.zeros((COLS,), tl.float32)
    for start in range(0, P, PARTS):
        part = start + tl.arange(0, PARTS)
        keep = (part[:, None] < P) & inside[None, :]
        at = (n * P + part[:, None]) * C + channel[None, :]
        off = tl.load(mean + at, mask=keep, other=0.0) + moved[None, :] - center
        spread += tl.sum(tl.where(keep, off * off + tl.load(variance + at, mask=keep, other=0.0), 0.0), 0)
    scale = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    scale *= tl.rsqrt(tl.sum(spread, 0) / (P * width) + eps)
    offset = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32) + (moved - center) * scale
    tl.store(factor + n * C + channel, scale, mask=inside)
    tl.store(summand + n * C + channel, offset, mask=inside)


def launch(
    mean_NPC: Tensor,
    variance_NPC: Tensor,
    weight_C: Tensor,
    bias_C: Tensor,
    shift_NC: Tensor,
    groups: int,
    eps: float,
    factor_NC: Tensor,
    summand_NC: Tensor,
) -> None:
    """Fill the last two; all are contiguous, and the shift is [1, C] where all items share it."""
    items, parts, channels = mean_NPC.shape
    step = channels if len(shift_NC) > 1 else 0
    columns = triton.next_power_of_2(channels // groups)
    _group_scale[(items, groups)](
        *(mean_NPC, variance_NPC, weight_C, bias_C, shift_NC, factor_NC, summand_NC),
        *(parts, channels, groups, step, eps),
        PARTS=min(_PARTS, triton.next_power_of_2(parts)),
        COLS=columns,
    )
