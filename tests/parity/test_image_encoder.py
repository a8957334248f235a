"""Our image encoder and its preprocessing against DiffSynth-Studio's and diffusers', on the same weights."""

from __future__ import annotations

import pytest
import torch
from narrow_svd import noise
from PIL import Image

from parity import references

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
SIZES = [(512, 512), (128, 192), (225, 337), (100, 700), (224, 224), (576, 1024)]


def picture(height, width):
    """Smooth, with some noise, so that blur and resize both matter."""
    coarse = torch.nn.functional.interpolate(noise(1, 3, 9, 7), (height, width), mode="bicubic")
    pixels = (coarse + 0.3 * noise(1, 3, height, width, seed=1))[0].clamp(-1, 1)
    return Image.fromarray(((pixels + 1) * 127.5).byte().permute(1, 2, 0).numpy())


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_embedding_equals_diffsynth(size, plain, reference_plain, relative_error):
    image = picture(*size)
    reference = reference_plain.encode_image_with_clip(image)

    assert relative_error(plain.image_encoder(reference_plain.preprocess_image(image)), reference) <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_embedding_equals_diffusers(size, plain, reference_plain, relative_error):
    image = picture(*size)
    pipe = references.diffusers_pipeline(plain)
    reference = pipe._encode_image(image, "cpu", 1, do_classifier_free_guidance=False)[0]

    assert relative_error(plain.image_encoder(reference_plain.preprocess_image(image)), reference) <= TOLERANCE


@torch.inference_mode()
def test_both_naming_schemes_give_the_same_encoder(plain, from_diffusers, relative_error):
    image_BCHW = noise(1, 3, 64, 96).clamp(-1, 1)

    assert (
        relative_error(from_diffusers["plain"].image_encoder(image_BCHW), plain.image_encoder(image_BCHW)) <= TOLERANCE
    )
