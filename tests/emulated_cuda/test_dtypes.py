"""Dtypes that networks are loaded in on a card, and what older cards cannot compute."""

from __future__ import annotations

import pytest
import torch

from .cards import H200, MI300, RTX_2080, RTX_3060, Card
from .mini import mini_cogvideox, mini_svd
from .patches import emulated
from .pipelines import UNGUIDED, cogvideox_clip, is_orderly, svd_clip

HALF, BRAIN = torch.float16, torch.bfloat16


@pytest.mark.parametrize("card", [H200, RTX_3060, MI300], ids=lambda card: card.name)
def test_cogvideox_is_loaded_in_bfloat16(card: Card) -> None:
    with emulated(card) as cuda:
        assert mini_cogvideox(cuda).dtype == BRAIN


def test_cogvideox_is_loaded_in_float16_on_an_older_card() -> None:
    with emulated(RTX_2080) as cuda:
        assert mini_cogvideox(cuda).dtype == HALF


def test_an_older_card_computes_cogvideox_in_float16() -> None:
    with emulated(RTX_2080) as cuda:
        pipe = mini_cogvideox(cuda, dtype=HALF)
        cogvideox_clip(cuda, pipe, frames=9, height=64, width=64, steps=1, guidance_scale=1)

        assert set(cuda.costs.attention) <= {"efficient", "math"}
        assert is_orderly(cuda)


def test_an_older_card_computes_svd() -> None:
    with emulated(RTX_2080) as cuda:
        svd_clip(cuda, mini_svd(cuda), frames=4, size=128, steps=1, **UNGUIDED)

        assert is_orderly(cuda)
