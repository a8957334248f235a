"""Our CogVideoX autoencoder against DiffSynth-Studio's and diffusers', in float32, on the same weights."""

from __future__ import annotations

import pytest
import torch
from narrow_cogvideox import NARROW, TINY, build_vae
from narrow_svd import noise

from exvideo_core.families.cogvideox.vae import SCALING_FACTOR, CogVideoXVAE
from parity import references_cogvideox as references

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def ours() -> CogVideoXVAE:
    return build_vae(NARROW.vae)


@pytest.fixture(scope="module")
def synth(ours):
    return references.diffsynth_vae(ours.state_dict())


@pytest.fixture(scope="module")
def diffusers(ours):
    return references.diffusers_vae(ours.state_dict(), NARROW.vae)


def latents(frames, height=2, width=3, batch=1):
    return noise(batch, 16, frames, height, width)


def video(frames, height=16, width=24, batch=1):
    return noise(batch, 3, frames, height, width).clamp(-1, 1)


@torch.inference_mode()
@pytest.mark.parametrize(("frames", "decoded"), [(2, 8), (3, 9), (4, 16), (5, 17), (9, 33), (33, 129)])
def test_decode_equals_both(frames, decoded, ours, synth, diffusers, relative_error):
    latents_BCTHW = latents(frames, *((1, 2) if frames > 9 else (2, 3)))
    video_BCFHW = ours.decode(latents_BCTHW)

    assert video_BCFHW.shape[2] == decoded
    assert relative_error(video_BCFHW, synth[1].decode_small_video(latents_BCTHW * SCALING_FACTOR)) <= TOLERANCE
    assert relative_error(video_BCFHW, diffusers.decode(latents_BCTHW).sample) <= TOLERANCE


@torch.inference_mode()
def test_decode_of_one_latent_frame_equals_diffusers(ours, diffusers, relative_error):
    assert relative_error(ours.decode(latents(1)), diffusers.decode(latents(1)).sample) <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("frames", [8, 9, 16, 17])
def test_encode_equals_both(frames, ours, synth, diffusers, relative_error):
    video_BCFHW = video(frames)
    latents_BCTHW = ours.encode(video_BCFHW)

    assert relative_error(latents_BCTHW * SCALING_FACTOR, synth[0].encode_small_video(video_BCFHW)) <= TOLERANCE
    assert relative_error(latents_BCTHW, diffusers.encode(video_BCFHW).latent_dist.mode()) <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 2, 3, 5, 7, 12, 13])
def test_encode_of_other_numbers_of_frames_equals_diffusers(frames, ours, diffusers, relative_error):
    reference = diffusers.encode(video(frames)).latent_dist.mode()

    assert relative_error(ours.encode(video(frames)), reference) <= TOLERANCE


@torch.inference_mode()
def test_two_clips_at_once_equal_both(ours, synth, diffusers, relative_error):
    latents_BCTHW, video_BCFHW = latents(3, batch=2), video(9, batch=2)
    decoded = synth[1].decode_small_video(latents_BCTHW * SCALING_FACTOR)
    encoded = ours.encode(video_BCFHW) * SCALING_FACTOR

    assert relative_error(ours.decode(latents_BCTHW), decoded) <= TOLERANCE
    assert relative_error(ours.decode(latents_BCTHW), diffusers.decode(latents_BCTHW).sample) <= TOLERANCE
    assert relative_error(encoded, synth[0].encode_small_video(video_BCFHW)) <= TOLERANCE
    assert relative_error(ours.encode(video_BCFHW), diffusers.encode(video_BCFHW).latent_dist.mode()) <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(3, 3), (4, 1), (1, 5)], ids=str)
def test_other_proportions_equal_both(shape, ours, synth, diffusers, relative_error):
    latents_BCTHW = latents(3, *shape)
    video_BCFHW = ours.decode(latents_BCTHW)

    assert relative_error(video_BCFHW, synth[1].decode_small_video(latents_BCTHW * SCALING_FACTOR)) <= TOLERANCE
    assert relative_error(video_BCFHW, diffusers.decode(latents_BCTHW).sample) <= TOLERANCE


@torch.inference_mode()
def test_encode_of_the_published_clip_equals_both(ours, synth, diffusers, relative_error):
    video_BCFHW = video(129, 8, 16)
    latents_BCTHW = ours.encode(video_BCFHW)

    assert latents_BCTHW.shape == (1, 16, 33, 1, 2)
    assert relative_error(latents_BCTHW * SCALING_FACTOR, synth[0].encode_small_video(video_BCFHW)) <= TOLERANCE
    assert relative_error(latents_BCTHW, diffusers.encode(video_BCFHW).latent_dist.mode()) <= TOLERANCE


def test_scale_is_diffsynth_s_and_diffusers(synth, diffusers):
    assert synth[0].scaling_factor == synth[1].scaling_factor == SCALING_FACTOR


@torch.inference_mode()
def test_few_channels_equal_diffusers(relative_error):
    """Widths that 32 does not divide have 8 groups."""
    small = build_vae(TINY.vae)
    reference = references.diffusers_vae(small.state_dict(), TINY.vae, groups=8)

    assert relative_error(small.decode(latents(3)), reference.decode(latents(3)).sample) <= TOLERANCE
    assert relative_error(small.encode(video(9)), reference.encode(video(9)).latent_dist.mode()) <= TOLERANCE
