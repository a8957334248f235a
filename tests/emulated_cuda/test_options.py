"""Options of the pipelines on a card, in small networks: methods, keyframes, init videos, reuse, saved runs, LoRAs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from exvideo_core.lora.apply import merge, remove_loras
from exvideo_core.lora.files import LoRA, LoRAPair
from exvideo_core.nn.step_cache import Reuse

from .device import EmulatedCuda
from .mini import mini_cogvideox, mini_svd
from .pipelines import PICTURE, cogvideox_clip, is_orderly, svd_clip

pytestmark = pytest.mark.slow


def test_svd_with_everything(cuda: EmulatedCuda, tmp_path: Path) -> None:
    svd_clip(
        cuda,
        mini_svd(cuda),
        frames=8,
        size=128,
        steps=6,
        method="dpmpp_2m",
        keyframes={3: PICTURE},
        init_video=[PICTURE] * 8,
        denoise=0.7,
        reuse=Reuse(threshold=0.5),
        resume=tmp_path / "run",
    )

    assert is_orderly(cuda)


def test_cogvideox_with_everything_on_two_cards(cuda: EmulatedCuda, tmp_path: Path) -> None:
    cogvideox_clip(
        cuda,
        mini_cogvideox(cuda, device="cuda:0,cuda:1"),
        frames=17,
        height=96,
        width=96,
        steps=5,
        method="dpmpp_2m_sde",
        reuse=Reuse(threshold=0.5),
        resume=tmp_path / "run",
    )

    assert is_orderly(cuda)


def test_cogvideox_changes_a_video(cuda: EmulatedCuda) -> None:
    pipe = mini_cogvideox(cuda)
    cogvideox_clip(cuda, pipe, frames=9, height=96, width=96, init_video=[PICTURE] * 9, denoise=0.5)

    assert is_orderly(cuda)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_lora_is_merged_and_taken_out(cuda: EmulatedCuda, stream: bool) -> None:
    pipe = mini_cogvideox(cuda, stream=stream)
    size = {"frames": 9, "height": 64, "width": 64, "steps": 1}
    pairs = {
        name: LoRAPair(torch.zeros(16, weight.shape[1]), torch.zeros(weight.shape[0], 16))
        for name, weight in pipe.transformer.named_parameters()
        if name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight"))
    }
    places = {str(weight.device) for weight in pipe.transformer.parameters()}
    merge(pipe.transformer, LoRA(pairs, source="lora"))
    cogvideox_clip(cuda, pipe, **size)
    remove_loras(pipe.transformer)
    cogvideox_clip(cuda, pipe, **size)

    assert {str(weight.device) for weight in pipe.transformer.parameters()} == places
    assert is_orderly(cuda)
