"""fp8 on cards: where there are no such products, an error says so before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from exvideo_core.errors import ExVideoError
from exvideo_core.families.svd.blocks import UNetArgs
from exvideo_core.families.svd.transformer import SpatioTemporalTransformer
from exvideo_core.nn.attention import BACKENDS
from exvideo_core.nn.fp8 import check_products, multiply_in_fp8, store_in_fp8

from .cards import H200, MI300, RTX_2080, RTX_3060, RTX_4090, RX_7900, Card
from .mini import mini_cogvideox, mini_svd
from .patches import emulated, placed
from .pipelines import UNGUIDED, cogvideox_clip, is_orderly, svd_clip

HALF = torch.float16


def test_svd_multiplies_in_fp8() -> None:
    with emulated(RTX_4090) as cuda:
        pipe = mini_svd(cuda)
        multiply_in_fp8(pipe.unet)
        svd_clip(cuda, pipe, frames=4, size=128, steps=1, **UNGUIDED)

        assert cuda.costs.launches["_scaled_mm"] > 0
        assert is_orderly(cuda)


@pytest.mark.parametrize("store", [store_in_fp8, multiply_in_fp8])
def test_cogvideox_computes_with_fp8_weights(store: Callable[[nn.Module], None]) -> None:
    with emulated(RTX_4090) as cuda:
        pipe = mini_cogvideox(cuda)
        before = cuda.memory.now["cuda:0"]
        store(pipe.transformer)
        assert cuda.memory.now["cuda:0"] < before
        cogvideox_clip(cuda, pipe, frames=9, height=64, width=64, steps=1, guidance_scale=1)

        assert (cuda.costs.launches["_scaled_mm"] > 0) == (store is multiply_in_fp8)
        assert is_orderly(cuda)


def products_of_a_transformer(chunk_bytes: int) -> int:
    """fp8 products that a transformer of SVD's UNet launches."""
    with emulated(RTX_4090) as cuda, torch.inference_mode():
        layer = placed(cuda, lambda: SpatioTemporalTransformer(64, 32, None, BACKENDS["auto"], nn), HALF, "cuda:0")
        multiply_in_fp8(layer)
        x = torch.empty(4, 64, 16, 16, dtype=HALF, device="cuda").to(memory_format=torch.channels_last)
        args = UNetArgs(
            embedding=torch.empty(1, 64, dtype=HALF, device="cuda"),
            context=torch.empty(1, 1, 32, dtype=HALF, device="cuda"),
            frame_ids=torch.zeros(4, dtype=torch.long, device="cuda"),
            chunk_bytes=chunk_bytes,
        )
        layer(x, args)
        return cuda.costs.launches["_scaled_mm"]


def test_products_take_chunks_of_one_frame_and_of_several() -> None:
    assert products_of_a_transformer(2**15) > products_of_a_transformer(2**28) > 0


@pytest.mark.parametrize("card", [H200, RTX_4090], ids=lambda card: card.name)
def test_new_cards_have_fp8_products(card: Card) -> None:
    with emulated(card):
        check_products(torch.device("cuda:0"))


@pytest.mark.parametrize("card", [RTX_2080, RTX_3060], ids=lambda card: card.name)
def test_older_cards_are_refused(card: Card) -> None:
    with emulated(card), pytest.raises(ExVideoError, match="fp8"):
        check_products(torch.device("cuda:0"))


def test_products_without_scales_of_rows_are_refused() -> None:
    with emulated(replace(RTX_4090, scales_rows=False)), pytest.raises(ExVideoError, match="fp8"):
        check_products(torch.device("cuda:0"))


@pytest.mark.parametrize("card", [MI300, RX_7900], ids=lambda card: card.name)
def test_cards_of_amd_without_these_products_are_refused(card: Card) -> None:
    with emulated(card), pytest.raises(ExVideoError, match="fp8"):
        check_products(torch.device("cuda:0"))


def test_mps_is_refused() -> None:
    with pytest.raises(ExVideoError, match="fp8"):
        check_products(torch.device("mps"))
