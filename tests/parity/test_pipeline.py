"""Whole runs against DiffSynth-Studio's SVDVideoPipeline and diffusers' StableVideoDiffusionPipeline.

Same weights, same noise, float32. Compared are the latents that are decoded, relative to the largest.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from narrow_svd import noise
from PIL import Image

from exvideo_core.video.frames import to_uint8
from parity import references

pytestmark = [pytest.mark.parity, references.EXPECTED_WARNINGS]

TOLERANCE = 1e-4
HEIGHT, WIDTH = 128, 192
CELLS = (4, HEIGHT // 8, WIDTH // 8)
REFERENCE_SCALE = 0.13025


def picture(seed):
    coarse = torch.nn.functional.interpolate(noise(1, 3, 5, 7, seed=seed), (HEIGHT, WIDTH), mode="bicubic")[0]
    return Image.fromarray(((coarse.clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy())


def run_diffsynth(pipe, unit, image_noise, monkeypatch, decoded=True, **settings):
    """Latents and frames of DiffSynth's own run, with the given noise in place of what it would draw."""
    drawn = iter([unit, image_noise])
    monkeypatch.setattr(pipe, "generate_noise", lambda *_, **__: next(drawn))
    kept = []
    decode = pipe.vae_decoder.decode_video

    def keep_and_decode(latents, **_):
        kept.append(latents.clone())
        return decode(latents) if decoded else torch.zeros(3, 1, 8, 8)

    monkeypatch.setattr(pipe.vae_decoder, "decode_video", keep_and_decode)
    video = pipe(height=HEIGHT, width=WIDTH, progress_bar_cmd=lambda steps: steps, **settings)
    return kept[0], torch.from_numpy(np.stack([np.asarray(frame) for frame in video]))


@pytest.fixture
def compare(request, relative_error, monkeypatch):
    """Run both, with our names of the settings; returns the relative error of the latents, and both videos."""

    def run(kind="extended", frames=9, steps=6, seed=0, encode_scale=None, decoded=False, **settings):
        ours, reference = request.getfixturevalue(kind), request.getfixturevalue(f"reference_{kind}")
        unit, image_noise = noise(frames, *CELLS, seed=seed), noise(1, 3, HEIGHT, WIDTH, seed=seed + 1)
        if not decoded:  # what is compared is what would be decoded
            monkeypatch.setattr(ours.vae, "decode", lambda *_: torch.zeros(1, 3, 8, 8))
        if encode_scale:
            monkeypatch.setattr(reference.vae_encoder, "scaling_factor", encode_scale)
            settings["encode_scale"] = encode_scale
        result = ours(
            picture(seed), num_frames=frames, height=HEIGHT, width=WIDTH, num_inference_steps=steps,
            latents=unit, image_noise=image_noise, **settings,
        )  # fmt: skip
        latents, video = run_diffsynth(
            reference, unit, image_noise, monkeypatch, decoded,
            input_image=picture(seed), num_frames=frames, num_inference_steps=steps,
            **in_diffsynth_words(ours.defaults, settings),
        )  # fmt: skip
        return relative_error(result.latents, latents), to_uint8(result.frames), video

    return run


def in_diffsynth_words(defaults, settings):
    renamed = {
        "min_guidance_scale": "min_cfg_scale",
        "max_guidance_scale": "max_cfg_scale",
        "normalize": "post_normalize",
        "contrast": "contrast_enhance_scale",
        "denoise": "denoising_strength",
        "init_video": "input_video",
    }
    values = vars(defaults) | settings
    values.pop("num_frames")
    values.pop("encode_scale", None)
    keyframes = values.pop("keyframes", {})
    values |= {"mask_frame_ids": list(keyframes), "mask_frames": list(keyframes.values())}
    return {renamed.get(name, name): value for name, value in values.items()}


def test_a_picture_with_the_extension_s_defaults_equals_diffsynth(compare):
    error, frames, reference = compare(decoded=True)

    assert error <= TOLERANCE
    difference = (frames.int() - reference.int()).abs()
    assert difference.max() <= 1  # where truncation falls on the other side
    assert difference.float().mean() < 0.01


def test_a_picture_without_extension_equals_diffsynth(compare):
    assert compare("plain", frames=5)[0] <= TOLERANCE


def test_more_frames_than_the_base_knows_equal_diffsynth(compare):
    assert compare(frames=30, steps=3)[0] <= TOLERANCE


def test_rising_guidance_equals_diffsynth(compare):
    assert compare(min_guidance_scale=1.0, max_guidance_scale=3.0)[0] <= TOLERANCE


def test_settings_of_the_conditioning_equal_diffsynth(compare):
    assert compare(frames=3, fps=12, motion_bucket_id=40, noise_aug_strength=0.3, steps=4)[0] <= TOLERANCE


@pytest.mark.parametrize(("normalize", "contrast"), [(True, 1.0), (False, 1.2), (False, 1.0)])
def test_postprocessing_equals_diffsynth(normalize, contrast, compare):
    assert compare(frames=3, normalize=normalize, contrast=contrast, steps=4)[0] <= TOLERANCE


@pytest.mark.parametrize("encode_scale", [0.13025, 0.18215])
def test_video_to_video_equals_diffsynth(encode_scale, compare):
    video = [picture(seed) for seed in range(10, 15)]

    assert compare(frames=5, denoise=0.5, init_video=video, encode_scale=encode_scale)[0] <= TOLERANCE


@pytest.mark.parametrize("encode_scale", [0.13025, 0.18215])
def test_keyframes_equal_diffsynth(encode_scale, compare):
    keyframes = {0: picture(20), 4: picture(21), 8: picture(22)}

    assert compare(keyframes=keyframes, encode_scale=encode_scale)[0] <= TOLERANCE


def test_keyframes_in_a_given_video_equal_diffsynth(compare):
    video = [picture(seed) for seed in range(10, 15)]
    settings = {"init_video": video, "keyframes": {4: picture(21)}, "denoise": 0.7, "encode_scale": 0.13025}

    assert compare(frames=5, **settings)[0] <= TOLERANCE


@pytest.mark.parametrize("frames", [2, 14])
def test_a_picture_equals_diffusers(frames, plain, relative_error, monkeypatch):
    unit, image_noise = noise(frames, *CELLS), noise(1, 3, HEIGHT, WIDTH, seed=1)
    pipe = references.diffusers_pipeline(plain)
    module = "diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion"
    monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, **__: image_noise)
    settings = {"num_frames": frames, "num_inference_steps": 6, "height": HEIGHT, "width": WIDTH, "fps": 7}
    scales = {"min_guidance_scale": 1.0, "max_guidance_scale": 3.0}
    reference = pipe(picture(0), latents=unit[None], output_type="latent", **settings, **scales).frames[0]

    result = plain(picture(0), latents=unit, image_noise=image_noise, **settings, **scales)

    assert relative_error(result.latents, reference) <= TOLERANCE
