"""Kernels that are launched: few enough for a large card, and none without need."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from exvideo_core.nn.chunks import CHUNK_BYTES
from exvideo_core.nn.group_norm import affine, norm_silu
from exvideo_core.nn.kernels import Mode

from .cards import H200, RTX_3060, RTX_4090, Card
from .device import EmulatedCuda
from .mini import mini_cogvideox, mini_svd
from .patches import emulated, placed
from .pipelines import PICTURE, UNGUIDED, cogvideox_clip, svd_clip

HALF = torch.float16
LARGE = 2**30  # bytes of a chunk from 24 GB on: a third of the launches of 256 MiB


class Seen(Exception):  # noqa: N818  nothing went wrong
    """Ends a clip where its chunk size is known."""


def sampled_in(card: Card) -> int:
    """Chunk size in which the UNet computes on a card."""
    with emulated(card) as cuda:
        pipe = mini_svd(cuda)

        def stop(*_: object) -> None:
            raise Seen(pipe.unet.chunk_bytes)

        with pytest.raises(Seen) as seen:
            pipe(PICTURE, num_frames=2, height=128, width=128, num_inference_steps=1, callback=stop, **UNGUIDED)
    return seen.value.args[0]


def decoded_in(card: Card) -> int:
    """Chunk size in which CogVideoX's autoencoder computes on a card."""
    with emulated(card) as cuda:
        pipe = mini_cogvideox(cuda)

        def stop(*_: object) -> None:
            raise Seen(pipe.vae.chunk_bytes)

        with pytest.raises(Seen) as seen:
            cogvideox_clip(cuda, pipe, frames=9, height=64, width=64, steps=1, guidance_scale=1, decode_progress=stop)
    return seen.value.args[0]


def test_chunks_are_small_on_a_small_card() -> None:
    assert sampled_in(RTX_3060) == decoded_in(RTX_3060) == CHUNK_BYTES


@pytest.mark.parametrize("card", [RTX_4090, H200], ids=lambda card: card.name)
def test_sampling_takes_large_chunks_on_a_large_card(card: Card) -> None:
    assert sampled_in(card) >= LARGE


def test_decoding_takes_large_chunks_on_a_large_card() -> None:
    assert decoded_in(H200) >= LARGE


def float64_kernels(heights: list[int]) -> int:
    """Kernels in float64 of a norm over chunks of so many rows."""
    with emulated(H200) as cuda, torch.inference_mode():
        norm = placed(cuda, lambda: nn.GroupNorm(32, 320), HALF, "cuda:0")
        maps = [torch.empty(2, 320, height, 32, dtype=HALF, device="cuda") for height in heights]
        affine(norm, (norm.weight, norm.bias), maps)
        return cuda.costs.float64.total()


def test_statistics_of_equal_chunks_are_merged_in_float32() -> None:
    assert float64_kernels([32] * 8) == 0


def test_statistics_of_other_chunks_are_merged_together() -> None:
    assert float64_kernels([32] * 16 + [31]) == float64_kernels([32] * 8 + [31]) > 0


def test_statistics_of_chunks_copy_nothing(cuda: EmulatedCuda) -> None:
    norm = placed(cuda, lambda: nn.GroupNorm(32, 320), HALF, "cuda:0")
    with torch.inference_mode():
        x = torch.empty(2, 320, 64, 64, dtype=HALF, device="cuda").to(memory_format=torch.channels_last)
        affine(norm, (norm.weight, norm.bias), [x, x])

    assert cuda.costs.widened.total() < x.nbytes


def test_a_norm_with_silu_copies_nothing(cuda: EmulatedCuda) -> None:
    norm = placed(cuda, lambda: nn.GroupNorm(32, 320), HALF, "cuda:0")
    with torch.inference_mode():
        x = torch.empty(2, 320, 64, 64, dtype=HALF, device="cuda").to(memory_format=torch.channels_last)
        norm_silu(norm, x)

    assert cuda.costs.widened.total() < x.nbytes


def test_guidance_launches_each_branch_once(cuda: EmulatedCuda) -> None:
    pipe = mini_cogvideox(cuda)
    clip = {"frames": 9, "height": 64, "width": 64, "steps": 2}
    alone = cogvideox_clip(cuda, pipe, **clip, guidance_scale=1).of(2).launches.total()
    both = cogvideox_clip(cuda, pipe, **clip).of(2).launches.total()

    assert 1.8 * alone < both < 2.2 * alone


@pytest.mark.parametrize("kernels", ["unchecked", "off"])
def test_triton_takes_launches_away_and_nobody_needs_it(kernels: Mode) -> None:
    with emulated(RTX_4090, kernels) as cuda:
        svd_clip(cuda, mini_svd(cuda), frames=2, size=128, **UNGUIDED)

    assert (cuda.costs.launches["exvideo::scaled"] > 0) == (kernels != "off")
