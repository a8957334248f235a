"""Attention backends."""

from __future__ import annotations

import sys

import pytest
import torch

from exvideo_core.attention import BACKENDS, flash, sdpa
from exvideo_core.errors import ExVideoError


def softmax_attention(q_BNLD: torch.Tensor, k_BNLD: torch.Tensor, v_BNLD: torch.Tensor) -> torch.Tensor:
    """The definition (arXiv:1706.03762, eq. 1)."""
    return (q_BNLD @ k_BNLD.transpose(-1, -2) / q_BNLD.shape[-1] ** 0.5).softmax(dim=-1) @ v_BNLD


def test_sdpa_is_attention() -> None:
    q, k, v = (torch.randn(2, 3, tokens, 8) for tokens in (5, 7, 7))

    torch.testing.assert_close(sdpa(q, k, v), softmax_attention(q, k, v))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the limit is one of CUDA's grids")
def test_sdpa_takes_more_rows_than_a_cuda_grid() -> None:
    q, k, v = torch.randn(3, 70000, 2, 4, 16, dtype=torch.float16, device="cuda")

    torch.testing.assert_close(sdpa(q, k, v)[-9:], sdpa(q[-9:], k[-9:], v[-9:]))


def test_a_backend_that_is_not_installed_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    q = torch.randn(1, 1, 2, 8)

    with pytest.raises(ExVideoError, match=r"flash-attn is not installed.*choose attention 'sdpa'"):
        flash(q, q, q)


def test_sdpa_is_always_on_offer() -> None:
    assert BACKENDS["sdpa"] is sdpa
