"""Attention on cards: chosen for the card and the dtype, fused, within the kernels' limits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from exvideo_core.estimate.counting import count
from exvideo_core.families.svd.vae_blocks import SelfAttention
from exvideo_core.nn.attention import BACKENDS, choice
from exvideo_core.nn.attention.choice import candidates

from .cards import H200, MI300, RTX_2080, RTX_3060, Card
from .device import EmulatedCuda
from .patches import device_guard, emulated, placed

HALF, BRAIN = torch.float16, torch.bfloat16
CHUNK_BYTES = 2**28


@pytest.mark.parametrize(
    ("card", "dtype", "name"),
    [
        (H200, HALF, "cudnn"),
        (RTX_3060, BRAIN, "sdpa"),
        (RTX_2080, HALF, "efficient"),
        (RTX_2080, BRAIN, "sliced"),
        (MI300, BRAIN, "sdpa"),
    ],
    ids=str,
)
def test_auto_chooses_for_the_card(card: Card, dtype: torch.dtype, name: str) -> None:
    with emulated(card):
        assert choice.choose(torch.device("cuda:0"), dtype, 64) == name


@pytest.mark.parametrize("backend", ["auto", "sdpa"])
def test_temporal_attention_at_1024_keeps_within_the_grid(backend: str) -> None:
    with emulated(RTX_3060) as cuda, torch.inference_mode():
        q = torch.empty(128 * 128, 5, 128, 64, dtype=HALF, device="cuda")
        BACKENDS[backend](q, q, q)

        assert cuda.costs.attention["flash"] >= 2


# SVD's autoencoder


def attend(cuda: EmulatedCuda, frames: int = 8, cells: int = 128) -> None:
    """Attention of SVD's autoencoder over each frame of a window of 1024x1024."""
    layer = placed(cuda, lambda: SelfAttention(512, torch.nn), HALF, "cuda:0")
    x = torch.empty(frames, 512, cells, cells, dtype=HALF, device="cuda").to(memory_format=torch.channels_last)
    with torch.inference_mode():
        layer(x, CHUNK_BYTES)


def test_attention_of_the_svd_autoencoder_is_fused(cuda: EmulatedCuda) -> None:
    attend(cuda)

    assert "math" not in cuda.costs.attention


def test_attention_of_the_svd_autoencoder_holds_little_beside_its_frames() -> None:
    frames = 8 * 512 * 128**2 * HALF.itemsize
    with emulated(H200) as cuda:
        attend(cuda)

        assert cuda.memory.peak["cuda:0"] < 2 * frames + 6 * CHUNK_BYTES


def test_estimates_count_what_attention_of_the_svd_autoencoder_holds() -> None:
    layer = SelfAttention(512, torch.nn).to("meta", HALF)
    inputs = 8 * 512 * 64**2 * HALF.itemsize  # which count among what the layer holds, on the card
    counted = count(lambda: layer(torch.empty(8, 512, 64, 64, dtype=HALF), CHUNK_BYTES)).peak
    with emulated(H200) as cuda:
        attend(cuda, cells=64)

        assert cuda.memory.peak["cuda:0"] < 1.3 * (counted + inputs)


# cuDNN


def test_cudnn_takes_the_shapes_of_temporal_attention(cuda: EmulatedCuda) -> None:
    q = torch.empty(4096, 5, 128, 64, dtype=HALF, device="cuda")
    with torch.inference_mode():
        BACKENDS["auto"](q, q, q)

    assert cuda.costs.attention["cudnn"] > 0


def test_a_shape_without_a_plan_of_cudnn_goes_to_another_kernel(cuda: EmulatedCuda) -> None:
    cuda.cudnn_refuses = lambda q: len(q) > 100
    q = torch.empty(4096, 5, 128, 64, dtype=HALF, device="cuda")
    with torch.inference_mode():
        BACKENDS["auto"](q, q, q)

    assert cuda.costs.attention["flash"] == 1


def test_out_of_memory_in_cudnn_goes_to_no_other_kernel() -> None:
    def fail(_: Tensor) -> bool:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with emulated(H200) as cuda, torch.inference_mode():
        q = torch.empty(16, 5, 128, 64, dtype=HALF, device="cuda")
        choice.choose(q.device, HALF, 64)
        cuda.cudnn_refuses = fail
        with pytest.raises(torch.OutOfMemoryError):
            BACKENDS["auto"](q, q, q)


# other accelerators

_TOKENS, _HEADS = 44_776, 10  # of CogVideoX at 129 frames of 720x480, in one of its groups of heads


def test_xpu_tries_the_fused_kernel_first() -> None:
    assert candidates("xpu", BRAIN) == ("sdpa", "sliced")


def test_slices_on_mps_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def attention(q: Tensor, _k: Tensor, v: Tensor) -> Tensor:
        calls.append(q.shape)
        return q.new_empty(*q.shape[:-1], v.shape[-1])

    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    with device_guard("mps"), FakeTensorMode(), torch.inference_mode():
        q = torch.empty(1, _HEADS, _TOKENS, 64, dtype=HALF, device="mps")
        BACKENDS["sliced"](q, q, q)

    assert len(calls) <= 40  # 2 GiB of scores each
