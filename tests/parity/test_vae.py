"""Our autoencoder against DiffSynth-Studio's and diffusers', in float32, on the same weights.

The two references differ in the decoder's norms: over time DiffSynth adds 1e-6 to the variance, diffusers and sgm
(which trained the weights) add 1e-5, as we do. On these weights that alone is worth 3e-5, so DiffSynth is held to
1e-5 with the published values in place of its own.
"""

from __future__ import annotations

import pytest
import torch
from narrow_svd import noise

from exvideo_core.families.svd.vae import SCALING_FACTOR
from parity import references

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
EPS_TOLERANCE = 5e-5  # DiffSynth with its own eps
ENCODER_SCALE = 0.13025  # DiffSynth's encoder multiplies by this


def decode(reference, latents_TCHW, **tiling):
    """DiffSynth's windowed decode; it divides by the scale itself and has the channels first."""
    return reference.decode_video(latents_TCHW * SCALING_FACTOR, **tiling).transpose(0, 1)


@pytest.fixture(scope="module")
def decoder(reference_plain):
    return references.with_published_eps(reference_plain.vae_decoder)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(1, 64, 64), (3, 64, 128), (9, 72, 40)], ids=str)
def test_encoder_equals_diffsynth(size, plain, reference_plain, relative_error):
    frames, height, width = size
    video_TCHW = noise(frames, 3, height, width).clamp(-1, 1)
    reference = reference_plain.vae_encoder.encode_video(video_TCHW.transpose(0, 1)[None])[0].transpose(0, 1)

    assert relative_error(plain.vae.encode(video_TCHW) * ENCODER_SCALE, reference) <= TOLERANCE


@torch.inference_mode()
def test_encoder_equals_diffusers(plain, relative_error):
    video_TCHW = noise(2, 3, 64, 128).clamp(-1, 1)
    reference = references.diffusers_vae(plain.vae.state_dict()).encode(video_TCHW).latent_dist.mode()

    assert relative_error(plain.vae.encode(video_TCHW), reference) <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 2, 8])
def test_one_window_equals_diffusers(frames, plain, relative_error):
    latents_TCHW = noise(frames, 4, 8, 12)
    vae = references.diffusers_vae(plain.vae.state_dict())
    reference = vae.decode(latents_TCHW, num_frames=frames).sample

    assert relative_error(plain.vae.decode(latents_TCHW), reference) <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 12, 21])
def test_windowed_decode_equals_diffsynth(frames, plain, decoder, relative_error):
    latents_TCHW = noise(frames, 4, 8, 12)

    assert relative_error(plain.vae.decode(latents_TCHW), decode(decoder, latents_TCHW)) <= TOLERANCE


@torch.inference_mode()
def test_decode_is_close_to_diffsynth_with_its_own_eps(plain, reference_plain, relative_error):
    latents_TCHW = noise(12, 4, 8, 12)
    reference = decode(reference_plain.vae_decoder, latents_TCHW)

    assert relative_error(plain.vae.decode(latents_TCHW), reference) <= EPS_TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("size", [(2, 2, 136), (2, 168, 2)], ids=str)
def test_tiled_decode_equals_diffsynth(size, plain, decoder, relative_error):
    frames, height, width = size
    latents_TCHW = noise(frames, 4, height, width)

    assert relative_error(plain.vae.decode(latents_TCHW), decode(decoder, latents_TCHW)) <= TOLERANCE


@torch.inference_mode()
def test_tiles_in_height_and_width_equal_diffsynth(plain, decoder, relative_error, monkeypatch):
    monkeypatch.setattr("exvideo_core.families.svd.vae.LARGEST_TILE", 8)
    monkeypatch.setattr("exvideo_core.families.svd.vae._TILE_STRIDE", 4)
    latents_TCHW = noise(9, 4, 13, 16)
    tiling = {f"{what}_{axis}": n for what, n in (("batch", 8), ("stride", 4)) for axis in ("height", "width")}

    assert relative_error(plain.vae.decode(latents_TCHW), decode(decoder, latents_TCHW, **tiling)) <= TOLERANCE


@torch.inference_mode()
def test_both_naming_schemes_give_the_same_autoencoder(plain, from_diffusers, relative_error):
    video_TCHW = noise(2, 3, 64, 64).clamp(-1, 1)
    latents_TCHW = noise(3, 4, 8, 8)
    folder = from_diffusers["plain"].vae

    assert relative_error(folder.encode(video_TCHW), plain.vae.encode(video_TCHW)) <= TOLERANCE
    assert relative_error(folder.decode(latents_TCHW), plain.vae.decode(latents_TCHW)) <= TOLERANCE
