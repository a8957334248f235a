"""How a picture is prepared for CLIP, and its embedding."""

from __future__ import annotations

import pytest
import torch
from narrow_svd import NARROW, TINY, build_image_encoder, noise

from exvideo_core.errors import CheckpointError
from exvideo_core.families.svd.config import ImageEncoderConfig
from exvideo_core.families.svd.image_encoder import ImageEncoder, build_clip, clip_pixels

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)


@pytest.mark.parametrize("size", [(512, 512), (128, 200), (225, 337), (64, 700), (224, 224)], ids=str)
def test_pictures_of_any_size_become_squares(size: tuple[int, int]) -> None:
    image_BCHW = torch.full((2, 3, *size), 0.5)
    expected_BCHW = ((torch.tensor(0.75) - MEAN) / STD).expand(2, 3, 224, 224)  # blur and resize keep a plain colour

    torch.testing.assert_close(clip_pixels(image_BCHW), expected_BCHW, atol=1e-4, rtol=0)


def test_a_picture_of_the_right_size_is_only_normalised() -> None:
    image_BCHW = noise(1, 3, 224, 224).clamp(-1, 1)

    torch.testing.assert_close(clip_pixels(image_BCHW), ((image_BCHW + 1) / 2 - MEAN) / STD)


def test_nothing_is_cropped() -> None:
    image_BCHW = -torch.ones(1, 3, 100, 700)
    image_BCHW[..., :20] = image_BCHW[..., -20:] = 1
    bright = clip_pixels(image_BCHW) > clip_pixels(torch.zeros_like(image_BCHW))

    assert bool(bright[..., :3].all())
    assert bool(bright[..., -3:].all())
    assert not bool(bright[..., 20:-20].any())


def test_fine_patterns_are_blurred_away_before_shrinking() -> None:
    stripes_BCHW = torch.ones(1, 3, 896, 896)
    stripes_BCHW[..., ::2] = -1
    grey_BCHW = clip_pixels(torch.zeros_like(stripes_BCHW))

    assert float((clip_pixels(stripes_BCHW) - grey_BCHW)[..., 8:-8].abs().max()) < 0.05


@pytest.mark.parametrize("axis", [2, 3])
def test_mirrored_pictures_are_prepared_mirrored(axis: int) -> None:
    image_BCHW = noise(1, 3, 300, 451).clamp(-1, 1)

    torch.testing.assert_close(
        clip_pixels(image_BCHW.flip(axis)).flip(axis), clip_pixels(image_BCHW), atol=1e-3, rtol=0
    )


@torch.inference_mode()
def test_pictures_of_a_batch_are_encoded_by_themselves() -> None:
    encoder, images_BCHW = build_image_encoder(), noise(3, 3, 40, 50).clamp(-1, 1)
    embeddings = encoder(images_BCHW)

    assert embeddings.shape == (3, TINY.image_encoder.projection_dim)
    torch.testing.assert_close(embeddings[1:2], encoder(images_BCHW[1:2]), atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(dtype: torch.dtype) -> None:
    image_BCHW = noise(1, 3, 40, 50).clamp(-1, 1)
    expected, embedding = build_image_encoder()(image_BCHW), build_image_encoder().to(dtype)(image_BCHW)

    assert embedding.dtype == dtype
    assert float((embedding.float() - expected).square().mean().sqrt()) < 0.05 * float(expected.std())


@pytest.mark.parametrize("config", [ImageEncoderConfig(), NARROW.image_encoder, TINY.image_encoder], ids=str)
def test_sizes_are_read_from_the_weights(config: ImageEncoderConfig) -> None:
    with torch.device("meta"):
        weights = build_clip(config).state_dict()

    assert ImageEncoderConfig.from_shapes({name: tuple(weight.shape) for name, weight in weights.items()}) == config


def test_an_incomplete_tower_is_an_error() -> None:
    weights = ImageEncoder(TINY.image_encoder).clip.state_dict()
    shapes = {name: tuple(weight.shape) for name, weight in weights.items() if name != "visual_projection.weight"}

    with pytest.raises(CheckpointError, match="not a complete CLIP image encoder"):
        ImageEncoderConfig.from_shapes(shapes)
