"""Attention, behind one signature: models know no backend's name.

Shapes: B batch, N heads, L tokens, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from .errors import ExVideoError

# q, k, v and the result are [B, N, L, D]
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


# Some kernels put batch x heads on one CUDA grid axis, which ends at 65535; temporal attention has a
# batch of all latent cells (16384 at 1024x1024) times the heads.
_MAX_ROWS = 65535


def sdpa(q_BNLD: Tensor, k_BNLD: Tensor, v_BNLD: Tensor) -> Tensor:
    """PyTorch's scaled dot product attention, with the batch cut where kernels reach their grid limit."""
    rows = max(1, _MAX_ROWS // q_BNLD.shape[1])
    if not q_BNLD.is_cuda or q_BNLD.shape[0] <= rows:
        return F.scaled_dot_product_attention(q_BNLD, k_BNLD, v_BNLD)
    out_BNLD = q_BNLD.new_empty(*q_BNLD.shape[:-1], v_BNLD.shape[-1])
    for start in range(0, q_BNLD.shape[0], rows):
        part = slice(start, start + rows)
        out_BNLD[part] = F.scaled_dot_product_attention(q_BNLD[part], k_BNLD[part], v_BNLD[part])
    return out_BNLD


def flash(q_BNLD: Tensor, k_BNLD: Tensor, v_BNLD: Tensor) -> Tensor:
    """FlashAttention 2 (the `flash-attn` package); float16 or bfloat16 on CUDA only."""
    try:
        from flash_attn import flash_attn_func  # optional; imported only when chosen
    except ImportError as error:
        raise ExVideoError(
            "attention 'flash' was chosen, but the package flash-attn is not installed. "
            "Install it (pip install 'exvideo[flash]') or choose attention 'sdpa'."
        ) from error

    out_BLND: Tensor = flash_attn_func(*(x.transpose(1, 2) for x in (q_BNLD, k_BNLD, v_BNLD)))
    return out_BLND.transpose(1, 2)


BACKENDS: dict[str, Attention] = {"sdpa": sdpa, "flash": flash}
