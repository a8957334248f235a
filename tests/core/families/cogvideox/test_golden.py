"""CogVideoX against what the references computed, as `golden/record_cogvideox.py` recorded it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from golden import record_cogvideox as record
from narrow_cogvideox import NARROW, build_pipeline, build_transformer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from exvideo_core import CogVideoXPipeline
from exvideo_core.families.cogvideox.vae import SCALING_FACTOR
from exvideo_core.sampling.schedules import linspace_timesteps, trailing_timesteps, zero_snr_alphas

Agrees = Callable[[str, Tensor], bool]


@pytest.fixture(scope="module")
def agrees() -> Agrees:
    """Whether a result equals what the reference gave, within the recorded tolerance."""
    golden = load_file(record.RECORD)
    with safe_open(record.RECORD, "pt") as file:
        tolerances = json.loads(file.metadata()["tolerances"])

    def check(name: str, ours: Tensor) -> bool:
        expected = golden[name]
        assert ours.shape == expected.shape
        return bool((ours - expected).abs().max() <= tolerances[name] * expected.abs().max())

    return check


@pytest.fixture(scope="module")
def pipe() -> CogVideoXPipeline:
    return build_pipeline(NARROW, record.SEED)


@torch.inference_mode()
def test_transformer_equals_the_record_of_the_reference(pipe: CogVideoXPipeline, agrees: Agrees) -> None:
    assert agrees("velocity", pipe.transformer(*record.velocity_inputs())[:, :, record.KEPT_FRAMES])


@torch.inference_mode()
def test_image_to_video_transformer_equals_the_record_of_the_reference(agrees: Agrees) -> None:
    transformer = build_transformer(record.MOVER, record.SEED)

    assert agrees("velocity_of_picture", transformer(*record.picture_inputs()))


@torch.inference_mode()
def test_autoencoder_equals_the_record_of_the_reference(pipe: CogVideoXPipeline, agrees: Agrees) -> None:
    assert agrees("latents_of_video", pipe.vae.encode(record.video()) * SCALING_FACTOR)
    assert agrees("video_of_latents", pipe.vae.decode(record.latents() / SCALING_FACTOR))


@torch.inference_mode()
def test_text_encoder_equals_the_record_of_the_reference(pipe: CogVideoXPipeline, agrees: Agrees) -> None:
    assert pipe.text_encoder
    assert agrees("text_embedding", pipe.text_encoder([record.PROMPT])[:, record.KEPT_TOKENS])


def test_levels_equal_the_record_of_the_reference(agrees: Agrees) -> None:
    assert agrees("alphas", zero_snr_alphas()[record.KEPT_TIMESTEPS])
    assert agrees("timesteps", linspace_timesteps(50))
    assert agrees("timesteps_half_denoised", linspace_timesteps(50, 0.5))
    assert agrees("timesteps_trailing", trailing_timesteps(30))


@pytest.mark.parametrize(
    ("name", "method", "scale"), [("run_latents", "ddim", 7.0), ("run_latents_trailing", "ddim_trailing", 6.0)]
)
def test_a_run_equals_the_record_of_the_reference(
    name: str, method: str, scale: float, pipe: CogVideoXPipeline, agrees: Agrees
) -> None:
    result = pipe(
        record.PROMPT,
        negative_prompt=record.NEGATIVE,
        latents=record.run_noise(),
        guidance_scale=scale,
        method=method,
        **record.RUN,
    )

    assert agrees(name, result.latents)
