"""CogVideoX's transformer in chunks: equal results for every budget, in little memory."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import torch
from narrow_cogvideox import TINY, build_transformer
from narrow_svd import noise
from rounding import error, tolerance
from torch import Tensor

from exvideo_core.estimate.counting import count
from exvideo_core.families.cogvideox.config import TransformerConfig
from exvideo_core.families.cogvideox.rope import rope_freqs_cis
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.lora import attach, new_lora
from exvideo_core.nn.attention import sdpa

WORDS = 5
SIX_HEADS = replace(TINY.transformer, width=96, hidden=176)
TO_MOVE_PICTURES = replace(SIX_HEADS, in_channels=32, learned_positions=WORDS + 3 * 4 * 5)
EVERYTHING = 2**40  # bytes


def call(transformer: CogVideoXTransformer, batch: int, times: Tensor | None = None) -> Tensor:
    config, dtype = transformer.config, transformer.proj_out.weight.dtype
    x_BCTHW = noise(batch, config.in_channels, 3, 8, 10).to(dtype)
    steps, context_BLD = torch.tensor([999, 20])[:batch], noise(batch, WORDS, config.text_dim, seed=1).to(dtype)
    return transformer(x_BCTHW, steps, context_BLD, times)


def in_budget(transformer: CogVideoXTransformer, chunk_bytes: int, batch: int, times: Tensor | None = None) -> Tensor:
    transformer.chunk_bytes = chunk_bytes
    return call(transformer, batch, times)


def exactly(transformer: CogVideoXTransformer, batch: int, times: Tensor | None = None) -> Tensor:
    return in_budget(copy.deepcopy(transformer).double(), EVERYTHING, batch, times)


@torch.inference_mode()
@pytest.mark.parametrize("config", [SIX_HEADS, TO_MOVE_PICTURES], ids=["text to video", "image to video"])
@pytest.mark.parametrize("batch", [1, 2])
def test_every_budget_gives_the_same(config: TransformerConfig, batch: int) -> None:
    groups: set[int] = set()  # heads that attention saw at once

    def seen(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups.add(q.shape[1])
        return sdpa(q, k, v)

    transformer = CogVideoXTransformer(config, attention=seen)
    transformer.load_state_dict(build_transformer(config).state_dict())
    draw = random.Random(batch)
    times = torch.tensor([[0, 1, 2], [0, 9, 32]]) if batch == 2 else None
    whole = in_budget(transformer, EVERYTHING, batch, times)
    exact = exactly(transformer, batch, times)

    for budget in [1, *(int(2 ** draw.uniform(8, 19)) for _ in range(24))]:
        assert error(in_budget(transformer, budget, batch, times), exact) <= tolerance(whole, exact), budget
    assert {1, 2, 3, 6} <= groups


@torch.inference_mode()
@pytest.mark.parametrize("chunk_bytes", [1, 20_000])
def test_a_lora_beside_the_weights_is_in_the_pieces(chunk_bytes: int) -> None:
    transformer = build_transformer(SIX_HEADS)
    plain = in_budget(transformer, EVERYTHING, 1)
    lora = new_lora(transformer, ("to_q", "to_out.0", "ff.net.2"), rank=2, generator=torch.Generator().manual_seed(0))
    for pair in lora.pairs.values():
        pair.up.fill_(0.1)
    attach(transformer, lora)
    whole = in_budget(transformer, EVERYTHING, 1)

    assert error(whole, plain) > 1e-2
    exact = exactly(transformer, 1)
    assert error(in_budget(transformer, chunk_bytes, 1), exact) <= tolerance(whole, exact)


@torch.no_grad()
def test_changed_weights_are_seen() -> None:
    transformer, other = build_transformer(SIX_HEADS), build_transformer(SIX_HEADS, seed=1)
    before = in_budget(transformer, 20_000, 1)
    transformer.load_state_dict(other.state_dict())

    assert torch.equal(in_budget(transformer, 20_000, 1), in_budget(other, 20_000, 1))
    assert error(call(other, 1), before) > 1e-2


def test_where_gradients_are_wanted_there_are_no_pieces() -> None:
    transformer = build_transformer(SIX_HEADS)
    whole = in_budget(transformer, EVERYTHING, 2)
    cut = in_budget(transformer, 1, 2)

    assert torch.equal(cut, whole)
    cut.square().mean().backward()
    assert transformer.patch_embed.proj.weight.grad.abs().max() > 0
    with torch.no_grad():
        exact = exactly(transformer, 2)
        assert error(in_budget(transformer, 1, 2), exact) <= tolerance(whole, exact)


def test_what_a_preview_computed_once_serves_training_too() -> None:
    rope_freqs_cis.cache_clear()
    transformer = build_transformer(SIX_HEADS)
    with torch.inference_mode():
        call(transformer, 1)
    call(transformer, 1).sum().backward()

    assert rope_freqs_cis.cache_info().hits == 1


@pytest.mark.parametrize(("chunk_bytes", "gigabytes"), [(None, 1.0), (2**30, 1.9)], ids=["usual", "large"])
def test_the_published_size_needs_little(chunk_bytes: int | None, gigabytes: float) -> None:
    with torch.device("meta"):
        transformer = CogVideoXTransformer(TransformerConfig(layers=2)).half().requires_grad_(False)
        clip = torch.empty(1, 16, 33, 60, 90).half(), torch.empty(1), torch.empty(1, 226, 4096).half()
    transformer.chunk_bytes = chunk_bytes or transformer.chunk_bytes

    assert count(lambda: transformer(*clip)).peak <= gigabytes * 1e9
