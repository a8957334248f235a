"""CogVideoX at its published size: what a call launches, waits for and holds, and clips on cards of every kind."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn

from exvideo_core.families.cogvideox.config import TransformerConfig, VAEConfig
from exvideo_core.families.cogvideox.estimate import count_call
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.families.cogvideox.vae import CogVideoXVAE
from exvideo_core.nn.attention import BACKENDS
from exvideo_core.nn.fp8 import multiply_in_fp8, store_in_fp8

from .cards import GIB, H200, MI300, RTX_2080, RTX_3060, RTX_4090, Card
from .device import EmulatedCuda
from .patches import emulated, placed
from .pipelines import call_transformer, cogvideox_clip, decode, is_orderly, loaded_cogvideox
from .test_layouts import share_of_channels_first

pytestmark = pytest.mark.slow

BRAIN = torch.bfloat16
FEW = TransformerConfig(layers=2)  # of 42 equal ones
ROUNDED = 1.03  # figures of the README have two digits


def vae_on(cuda: EmulatedCuda) -> CogVideoXVAE:
    return placed(cuda, lambda: CogVideoXVAE(VAEConfig()), BRAIN, "cuda:0")


def test_a_forward_pass_of_129_frames() -> None:
    """Holds what estimates say, without a wait but for the inputs of the first call."""
    config = TransformerConfig()
    counted = count_call(config, (33, 60, 90), BRAIN).peak
    with emulated(H200) as cuda:
        network = placed(cuda, lambda: CogVideoXTransformer(config, attention=BACKENDS["auto"]), BRAIN, "cuda:0")
        weights = cuda.memory.now["cuda:0"]
        costs = call_transformer(cuda, network, frames=33, height=60, width=90)

        assert cuda.memory.peak["cuda:0"] - weights < 1.05 * counted
        assert "math" not in costs.attention
        assert costs.waits["item"] <= 1
        assert costs.waits.total() <= 8
        assert is_orderly(cuda)


def test_17_frames_are_decoded_channels_last(cuda: EmulatedCuda) -> None:
    assert share_of_channels_first(decode(cuda, vae_on(cuda), 1, 16, 5, 60, 90)) < 0.25


def test_17_frames_are_decoded_without_waits(cuda: EmulatedCuda) -> None:
    costs = decode(cuda, vae_on(cuda), 1, 16, 5, 60, 90)

    assert costs.waits["H2D"] == 0
    assert costs.waits.total() <= 4


# whole clips


@pytest.mark.parametrize(("gigabytes", "stream"), [(15.9, False), (5.4, True)], ids=["whole", "streamed"])
def test_a_clip_takes_no_more_than_the_readme_says(gigabytes: float, stream: bool) -> None:
    with emulated(RTX_3060.with_memory(ROUNDED * gigabytes * 1e9 / GIB)) as cuda:
        pipe = loaded_cogvideox(cuda, stream=stream)
        cogvideox_clip(cuda, pipe, steps=1, guidance_scale=1)

        assert cuda.memory.refusals == 0
        assert is_orderly(cuda)


def test_129_frames_end_on_a_small_card_without_seams(caplog: pytest.LogCaptureFixture) -> None:
    with emulated(RTX_3060.with_memory(8)) as cuda, caplog.at_level(logging.WARNING):
        pipe = loaded_cogvideox(cuda, transformer=FEW, stream=True)  # few blocks: two are on the card
        cogvideox_clip(cuda, pipe, steps=1, guidance_scale=1, output_type="latents")
        frames = pipe.decode(torch.empty(1, 16, 5, 60, 90))  # later chunks are as these

        assert len(list(frames)) == 17
        assert is_orderly(cuda)
    assert "seams" not in caplog.text


@pytest.mark.parametrize("card", [H200, MI300], ids=lambda card: card.name)
def test_a_clip_from_a_sentence(card: Card) -> None:
    with emulated(card) as cuda:
        pipe = loaded_cogvideox(cuda, text_encoder="t5", transformer=FEW)
        cogvideox_clip(cuda, pipe, frames=9, height=160, width=240, steps=1)

        assert is_orderly(cuda)


def test_an_older_card_streams_in_float16() -> None:
    with emulated(RTX_2080) as cuda:
        pipe = loaded_cogvideox(cuda, transformer=FEW, dtype=torch.float16, stream=True)
        cogvideox_clip(cuda, pipe, frames=9, height=160, width=240, steps=1)

        assert "math" not in cuda.costs.attention
        assert is_orderly(cuda)


@pytest.mark.parametrize("store", [store_in_fp8, multiply_in_fp8])
def test_a_clip_in_fp8(store: Callable[[nn.Module], None]) -> None:
    with emulated(RTX_4090) as cuda:
        pipe = loaded_cogvideox(cuda, transformer=FEW)
        store(pipe.transformer)
        cogvideox_clip(cuda, pipe, frames=17, height=160, width=240, steps=1, guidance_scale=1)

        assert is_orderly(cuda)


def test_a_clip_ends_in_smaller_chunks_where_memory_is_short() -> None:
    with emulated(RTX_3060) as cuda:
        pipe = loaded_cogvideox(cuda, transformer=FEW)
        cuda.memory.num_bytes = cuda.memory.now["cuda:0"] + int(1.6e9)
        cogvideox_clip(cuda, pipe, frames=129, steps=1, guidance_scale=1)

        assert cuda.memory.refusals > 0
        assert is_orderly(cuda)
