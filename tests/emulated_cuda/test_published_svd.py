"""SVD at its published size: what a call launches, waits for and holds, and clips on cards of every kind."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable

import pytest
import torch
from torch import nn

from exvideo_core.families.svd.config import UNetConfig, VAEConfig
from exvideo_core.families.svd.estimate import count_call, count_decoding
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.families.svd.vae import VAE
from exvideo_core.nn.attention import BACKENDS
from exvideo_core.nn.fp8 import multiply_in_fp8, store_in_fp8
from exvideo_core.nn.out_of_memory import restore_chunk_bytes, retry_with_smaller_chunks, retry_with_smaller_tiles

from .cards import GIB, H200, MI300, RTX_2080, RTX_3060, RTX_4090, Card
from .device import EmulatedCuda
from .patches import emulated, placed
from .pipelines import EXTENSION_FRAMES, UNGUIDED, call_unet, decode, is_orderly, loaded_svd, svd_clip
from .test_layouts import share_of_channels_first

pytestmark = pytest.mark.slow

HALF = torch.float16
SIZES = UNetConfig(extension_frames=EXTENSION_FRAMES)
ROUNDED = 1.03  # figures of the README have two digits


def unet_on(cuda: EmulatedCuda) -> SVDUNet:
    return placed(cuda, lambda: SVDUNet(SIZES, attention=BACKENDS["auto"]), HALF, "cuda:0")


def vae_on(cuda: EmulatedCuda) -> VAE:
    return placed(cuda, lambda: VAE(VAEConfig()), HALF, "cuda:0")


# one call


def test_a_forward_pass_of_512x512() -> None:
    """Holds what the README and estimates say, channels last, without a wait but for the frames' numbers."""
    counted = count_call(SIZES, (128, 64, 64), HALF).peak
    with emulated(H200) as cuda:
        unet = unet_on(cuda)
        weights = cuda.memory.now["cuda:0"]
        costs = call_unet(cuda, unet, frames=128, cells=64)
        peak = cuda.memory.peak["cuda:0"]

        assert peak < 6.1e9
        assert peak - weights < 1.05 * counted + 128 * 8 * 64**2 * HALF.itemsize
        assert share_of_channels_first(costs) < 0.05
        assert costs.waits["item"] <= 1
        assert costs.waits.total() <= 6
        assert is_orderly(cuda)


@pytest.mark.parametrize("card", [H200, RTX_4090], ids=lambda card: card.name)
def test_a_step_of_512x512_launches_few_kernels_on_a_large_card(card: Card) -> None:
    with emulated(card) as cuda:
        pipe = loaded_svd(cuda)
        marks = svd_clip(cuda, pipe, frames=128, size=512, steps=2, output_type="latents", **UNGUIDED)

        assert marks.of(2).launches.total() <= 6500
        assert marks.of(2).waits["item"] == 1


def test_a_forward_pass_of_1024x1024_holds_what_the_readme_says(cuda: EmulatedCuda) -> None:
    call_unet(cuda, unet_on(cuda), frames=128, cells=128)

    assert cuda.memory.peak["cuda:0"] < 11.6e9
    assert is_orderly(cuda)


@pytest.mark.parametrize(("cells", "gigabytes"), [(64, 1.2), (128, 3.4)])
def test_decoded_windows_hold_what_estimates_say(cells: int, gigabytes: float) -> None:
    counted = count_decoding(VAEConfig(), (cells, cells), HALF).peak
    with emulated(H200) as cuda:
        vae = vae_on(cuda)
        weights = cuda.memory.now["cuda:0"]
        decode(cuda, vae, 8, 4, cells, cells)
        assert cuda.memory.peak["cuda:0"] - weights <= gigabytes * 1e9

        decode(cuda, vae, 16, 4, cells, cells)  # later windows hold sums of the frames that they share
        assert cuda.memory.peak["cuda:0"] - weights < 1.05 * counted


def test_a_decoded_window_is_channels_last(cuda: EmulatedCuda) -> None:
    costs = decode(cuda, vae_on(cuda), 8, 4, 64, 64)

    assert share_of_channels_first(costs) < 0.1
    assert costs.waits.total() <= 2  # whether frames are finite, and the attention's trial
    assert is_orderly(cuda)


SMALL = pytest.mark.parametrize(
    ("card", "stream"), [(RTX_3060.with_memory(6), True), (RTX_2080, False)], ids=["6 GB, streamed", "8 GB"]
)


def decode_window(cuda: EmulatedCuda, *, stream: bool) -> None:
    """Decode 8 frames of 1024x1024, in tiles where all else fails."""
    pipe, latents = loaded_svd(cuda, stream=stream), torch.empty(8, 4, 128, 128, device="cuda")
    with torch.inference_mode():
        retry_with_smaller_tiles(lambda tile: pipe.vae.decode(latents, None, tile), 128)


@SMALL
def test_a_window_of_1024x1024_is_decoded_without_seams(
    card: Card, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with emulated(card) as cuda, caplog.at_level(logging.WARNING):
        decode_window(cuda, stream=stream)

    assert "seams" not in caplog.text


@SMALL
def test_a_window_of_1024x1024_finds_room_at_once(card: Card, stream: bool) -> None:
    with emulated(card) as cuda:
        decode_window(cuda, stream=stream)

        assert cuda.memory.refusals == 0


# whole clips


@pytest.mark.parametrize(
    ("size", "gigabytes", "stream"),
    [(256, 4.7, False), (256, 1.4, True), (512, 6.1, False), (512, 2.2, True)],
    ids=["256", "256 streamed", "512", "512 streamed"],
)
def test_a_clip_takes_no_more_than_the_readme_says(size: int, gigabytes: float, stream: bool) -> None:
    with emulated(RTX_3060.with_memory(ROUNDED * gigabytes * 1e9 / GIB)) as cuda:
        pipe = loaded_svd(cuda, stream=stream)
        svd_clip(cuda, pipe, frames=128, size=size, steps=1, **UNGUIDED)

        assert cuda.memory.refusals == 0
        assert is_orderly(cuda)


@pytest.mark.parametrize(("gib", "size"), [(6, 512), (8, 1024)], ids=["6 GB, 512x512", "8 GB, 1024x1024"])
def test_128_frames_end_on_a_small_card_without_seams(gib: float, size: int, caplog: pytest.LogCaptureFixture) -> None:
    with emulated(RTX_3060.with_memory(gib)) as cuda, caplog.at_level(logging.WARNING):
        pipe = loaded_svd(cuda, stream=True)
        svd_clip(cuda, pipe, frames=128, size=size, steps=1, output_type="latents", **UNGUIDED)
        cells = size // 8
        frames = pipe.decode(torch.empty(16, 4, cells, cells))  # later windows are as these

        assert len(list(frames)) == 16
        assert is_orderly(cuda)
    assert "seams" not in caplog.text


@pytest.mark.parametrize("card", [H200, RTX_2080, MI300], ids=lambda card: card.name)
def test_a_clip_on_cards_of_every_kind(card: Card) -> None:
    with emulated(card) as cuda:
        svd_clip(cuda, loaded_svd(cuda), frames=8, size=256, steps=1)

        assert is_orderly(cuda)


def test_a_clip_without_an_extension(cuda: EmulatedCuda) -> None:
    pipe = loaded_svd(cuda, unet=UNetConfig())
    svd_clip(cuda, pipe, frames=25, size=256, steps=1, **UNGUIDED)

    assert is_orderly(cuda)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_clip_on_two_cards(cuda: EmulatedCuda, stream: bool) -> None:
    pipe = loaded_svd(cuda, device="cuda:0,cuda:1", stream=stream)
    svd_clip(cuda, pipe, frames=8, size=256, steps=1)

    gc.collect()  # latents are in a cycle
    assert cuda.memory.now["cuda:1"] == 0
    assert is_orderly(cuda)


@pytest.mark.parametrize("store", [store_in_fp8, multiply_in_fp8])
def test_a_clip_in_fp8(store: Callable[[nn.Module], None]) -> None:
    with emulated(RTX_4090) as cuda:
        pipe = loaded_svd(cuda)
        before = cuda.memory.now["cuda:0"]
        store(pipe.unet)
        assert cuda.memory.now["cuda:0"] < 0.6 * before
        svd_clip(cuda, pipe, frames=8, size=256, steps=1, **UNGUIDED)

        assert is_orderly(cuda)


def test_sampling_ends_in_smaller_chunks_where_memory_is_short() -> None:
    with emulated(RTX_3060) as cuda:
        unet = unet_on(cuda)
        cuda.memory.num_bytes = cuda.memory.now["cuda:0"] + int(2e9)
        with restore_chunk_bytes(unet):
            retry_with_smaller_chunks(unet, lambda: call_unet(cuda, unet, frames=128, cells=64))

        assert cuda.memory.refusals > 0
        assert is_orderly(cuda)
