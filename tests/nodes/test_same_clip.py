"""The same seed, the same clip in ComfyUI: previewed or not, after other models, and beside the Python interface."""

import pytest
import torch
from in_comfyui import relative, sampled

from exvideo_core.families.cogvideox.pipeline import load_cogvideox
from exvideo_core.families.svd.pipeline import load_svd

ROUNDING = 3e-5  # of the size of the latents, in float32


@pytest.fixture(params=["svd", "cogvideox"])
def either(request):
    """A run of one of the two models."""
    return request.getfixturevalue({"svd": "run", "cogvideox": "cog"}[request.param])


def test_a_preview_changes_no_bit(either):
    preview = either.pack.sampler.Watching("1", either.latent["samples"], "", 8.0)
    settings = {"steps": 2, "guidance": (2.0, 2.0), "denoise": 1.0}

    assert torch.equal(sampled(either, watch=preview, **settings), sampled(either, **settings))


def test_another_model_in_between_changes_no_bit(run, cog):
    before = run.sample(), cog.sample()

    assert torch.equal(run.sample(), before[0])
    assert torch.equal(cog.sample(), before[1])


def test_svd_is_the_clip_of_the_python_interface(run, files):
    options = {"seed": 3, "num_inference_steps": 3, "num_frames": 6, "height": 128, "width": 128, "fps": 30}
    plain = {"min_guidance_scale": 2.0, "max_guidance_scale": 2.0, "normalize": False, "contrast": 1.0}
    pipeline = load_svd(*files, dtype=torch.float32, device="cpu")
    expected = pipeline(run.image[0], **options, **plain).latents / 0.18215

    assert relative(run.sample(), expected) <= ROUNDING


def test_cogvideox_is_the_clip_of_the_python_interface(cog, cog_files):
    transformer, _, vae = cog_files
    pipeline = load_cogvideox(transformer, vae=vae, dtype=torch.float32, device="cpu")
    texts = {"prompt_embeds": cog.positive[0][0], "negative_prompt_embeds": cog.negative[0][0]}
    size = {"num_frames": cog.frames, "height": cog.height, "width": cog.width}
    expected = pipeline(**texts, **size, seed=3, num_inference_steps=4, guidance_scale=2.0).latents / 0.7

    assert relative(cog.sample(seed=3, steps=4, guidance=(2.0, 2.0)), expected) <= 1e-3
