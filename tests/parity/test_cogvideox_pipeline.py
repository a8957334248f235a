"""Whole runs against DiffSynth-Studio's CogVideoPipeline and diffusers' CogVideoXPipeline.

Same weights, same noise, float32. Compared are the latents that are decoded, relative to the largest.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from narrow_cogvideox import NARROW, build_pipeline
from narrow_svd import noise
from PIL import Image

from exvideo_core import load_cogvideox
from exvideo_core.video.frames import to_uint8
from parity import references_cogvideox as references
from parity.references import EXPECTED_WARNINGS

pytestmark = [pytest.mark.parity, EXPECTED_WARNINGS]

TOLERANCE = 1e-4
EMBEDDING_TOLERANCE = 1e-5
HEIGHT, WIDTH = 64, 96  # the published proportions, where diffusers' rotary positions are still the trained ones
PROMPT, NEGATIVE = "a red circle moves right on blue", "blurry"
PROMPTS = [
    "",
    "A panda plays a miniature guitar in a serene bamboo forest.",
    "  two  spaces, a\ttab\nand a new line ",
    "Café — naïve “quotes” ½ ﬁ 日本語 🐼 </s> <pad> <extra_id_0>",
    "word " * 300,
]


@pytest.fixture(scope="module")
def ours():
    return build_pipeline(NARROW)


@pytest.fixture(scope="module")
def synth(ours):
    return references.diffsynth_pipeline(ours)


def picture(seed, height=HEIGHT, width=WIDTH):
    coarse = torch.nn.functional.interpolate(noise(1, 3, 5, 7, seed=seed), (height, width), mode="bicubic")[0]
    return Image.fromarray(((coarse.clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy())


def unit_noise(frames, height=HEIGHT, width=WIDTH):
    return noise(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)


@pytest.fixture
def compare(ours, synth, relative_error, monkeypatch):
    """Run ours and DiffSynth's without the decoding; returns the relative error of the latents."""

    def run(frames=9, steps=6, height=HEIGHT, width=WIDTH, guidance=7.0, denoise=1.0, init_video=None):
        monkeypatch.setattr(ours.vae, "decode", lambda *_: torch.zeros(1, 3, 1, 8, 8))
        unit = unit_noise(frames, height, width)
        size = {"num_frames": frames, "height": height, "width": width, "num_inference_steps": steps}
        result = ours(
            PROMPT, negative_prompt=NEGATIVE, latents=unit, guidance_scale=guidance, denoise=denoise,
            init_video=init_video, **size,
        )  # fmt: skip
        reference = references.run_diffsynth(
            synth, unit, PROMPT, NEGATIVE,
            cfg_scale=guidance, denoising_strength=denoise, input_video=init_video, **size,
        )  # fmt: skip
        return relative_error(result.latents, reference)

    return run


@torch.inference_mode()
@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt[:12])
def test_embeddings_equal_both(prompt, ours, synth, relative_error):
    embedding = ours.text_encoder([prompt])
    diffusers = references.diffusers_pipeline(ours)._get_t5_prompt_embeds(prompt)

    assert embedding.shape == (1, 226, NARROW.text_encoder.d_model)
    assert relative_error(embedding, synth.encode_prompt(prompt)["prompt_emb"]) <= EMBEDDING_TOLERANCE
    assert relative_error(embedding, diffusers) <= EMBEDDING_TOLERANCE


@torch.inference_mode()
def test_several_embeddings_at_once_equal_diffusers(ours, relative_error):
    expected = references.diffusers_pipeline(ours)._get_t5_prompt_embeds(PROMPTS)

    assert relative_error(ours.text_encoder(PROMPTS), expected) <= EMBEDDING_TOLERANCE


def test_a_run_equals_diffsynth(compare):
    assert compare() <= TOLERANCE


def test_frames_equal_diffsynth_s(ours, synth, monkeypatch):
    unit = unit_noise(9, 32, 48)
    monkeypatch.setattr(synth, "generate_noise", lambda *_, **__: unit)
    size = {"num_frames": 9, "height": 32, "width": 48, "num_inference_steps": 2}
    reference = synth(PROMPT, NEGATIVE, progress_bar_cmd=lambda steps: steps, **size)
    frames = to_uint8(ours(PROMPT, negative_prompt=NEGATIVE, latents=unit, **size).frames)

    difference = (frames.int() - torch.from_numpy(np.stack([np.asarray(frame) for frame in reference])).int()).abs()
    assert difference.max() <= 1  # where truncation falls on the other side
    assert difference.float().mean() < 0.01


def test_the_extended_clip_equals_diffsynth(compare):
    assert compare(frames=129, height=32, width=48, steps=3) <= TOLERANCE


def test_many_steps_equal_diffsynth(compare):
    assert compare(steps=50, height=32, width=32) <= TOLERANCE


@pytest.mark.parametrize("size", [(64, 32), (32, 96)], ids=str)
def test_other_proportions_equal_diffsynth(size, compare):
    height, width = size

    assert compare(height=height, width=width, steps=3) <= TOLERANCE


def test_a_run_without_guidance_equals_diffsynth(compare):
    assert compare(guidance=1.0) <= TOLERANCE


@pytest.mark.parametrize("denoise", [0.8, 0.3])
def test_video_to_video_equals_diffsynth(denoise, compare):
    video = [picture(seed) for seed in range(9)]

    assert compare(denoise=denoise, init_video=video, steps=4) <= TOLERANCE


@pytest.mark.parametrize("steps", [2, 20])
@pytest.mark.parametrize(
    ("method", "scheduler"),
    [("ddim_trailing", "CogVideoXDDIMScheduler"), ("dpmpp_2m_sde", "CogVideoXDPMScheduler")],
)
def test_a_run_equals_diffusers(method, scheduler, steps, ours, relative_error, monkeypatch):
    unit = unit_noise(9)
    pipe = references.diffusers_pipeline(ours, scheduler)
    fixed = noise(*unit.shape, seed=9)  # in place of all that is drawn later
    drawing = f"{type(pipe.scheduler).__module__}.randn_tensor"
    monkeypatch.setattr(drawing, lambda *_, **__: fixed.transpose(1, 2), raising=False)
    monkeypatch.setattr("exvideo_core.sampling.inputs.SeededNoise.__call__", lambda _: fixed)
    monkeypatch.setattr(ours.vae, "decode", lambda *_: torch.zeros(1, 3, 1, 8, 8))
    size = {"num_frames": 9, "height": HEIGHT, "width": WIDTH, "num_inference_steps": steps}
    settings = {"guidance_scale": 6.0, "negative_prompt": NEGATIVE}
    reference = pipe(PROMPT, latents=unit.transpose(1, 2), output_type="latent", **size, **settings).frames

    result = ours(PROMPT, latents=unit, method=method, **size, **settings)

    assert relative_error(result.latents, reference.transpose(1, 2)) <= TOLERANCE


def test_what_diffusers_saves_is_loaded_and_gives_the_same(ours, tmp_path, relative_error):
    pipe = references.diffusers_pipeline(ours)
    pipe.transformer.save_pretrained(tmp_path / "transformer", max_shard_size="300KB")
    pipe.vae.save_pretrained(tmp_path / "vae")
    pipe.text_encoder.save_pretrained(tmp_path / "text_encoder")
    loaded = load_cogvideox(tmp_path, vae=tmp_path, text_encoder=tmp_path, dtype=torch.float32, device="cpu")
    settings = {"negative_prompt": NEGATIVE, "num_frames": 9, "height": 32, "width": 32, "num_inference_steps": 2}

    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1
    assert relative_error(loaded(PROMPT, **settings).latents, ours(PROMPT, **settings).latents) <= TOLERANCE
