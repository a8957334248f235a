"""Waits of the host for a card: none but those for numbers that it needs, so that it runs ahead of the card."""

from __future__ import annotations

import torch
from torch import nn

from exvideo_core.families.cogvideox.norms import LatentNorm

from .device import EmulatedCuda
from .mini import mini_cogvideox, mini_svd
from .patches import placed
from .pipelines import call_unet, cogvideox_clip, decode, svd_clip

HALF = torch.float16
COPIED_NUMBERS = "each norm makes the numbers of its frames on the CPU and copies them"


def test_a_step_of_svd_waits_for_its_two_checks_alone(cuda: EmulatedCuda) -> None:
    marks = svd_clip(cuda, mini_svd(cuda), frames=2, size=128, steps=2)

    assert marks.of(2).waits["item"] == 2  # whether a prediction is finite, for each branch
    assert marks.of(2).waits.total() <= 2 + 2  # and the frames' numbers, for each branch


def test_a_step_of_cogvideox_waits_for_its_two_checks_alone(cuda: EmulatedCuda) -> None:
    marks = cogvideox_clip(cuda, mini_cogvideox(cuda), frames=9, height=64, width=64, steps=2)

    assert marks.of(2).waits["item"] == 2
    assert marks.of(2).waits.total() <= 2 + 2  # and the timestep, for each branch


def test_attention_is_tried_once(cuda: EmulatedCuda) -> None:
    unet = mini_svd(cuda).unet
    first, second = (call_unet(cuda, unet, frames=4, cells=16) for _ in range(2))

    assert first.waits["item"] == 1
    assert second.waits["item"] == 0


def test_decoding_svd_waits_for_the_check_of_each_window_alone(cuda: EmulatedCuda) -> None:
    costs = decode(cuda, mini_svd(cuda).vae, 16, 4, 16, 16)

    assert costs.copies["D2H"] == 3
    assert not costs.pageable
    assert costs.waits.total() == costs.waits["item"] <= 3 + 1  # and the attention's trial


def test_decoding_cogvideox_waits_for_each_chunk_of_frames(cuda: EmulatedCuda) -> None:
    costs = decode(cuda, mini_cogvideox(cuda).vae, 1, 16, 5, 12, 12)

    assert costs.waits["H2D"] == 0


def test_a_latent_norm_waits_for_nothing(cuda: EmulatedCuda) -> None:
    norm = placed(cuda, lambda: LatentNorm(64, 16, nn), HALF, "cuda:0")
    with torch.inference_mode():
        x = torch.empty(1, 64, 8, 32, 32, dtype=HALF, device="cuda")
        norm(x, torch.empty(1, 16, 2, 8, 8, dtype=HALF, device="cuda"))

    assert not cuda.costs.waits
