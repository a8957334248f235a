"""The embedded demo model that is shipped: small enough, and good enough to see what the pack does."""

from pathlib import Path

import pytest
import torch

from exvideo_core import demo_models, load_svd
from exvideo_core.training.evaluate import correlation, is_monotone, measure, motion_levels
from exvideo_core.training.motion import ladder
from exvideo_core.training.pictures import from_file

PICTURE = Path(__file__).parents[2] / "examples" / "astronaut.png"
FILES = (demo_models.SVD, demo_models.SVD_EXTENSION)


@pytest.fixture(scope="module")
def picture():
    return from_file(PICTURE, 128)


@pytest.fixture(scope="module")
def pipeline():
    return load_svd(*FILES, device="cpu")


def sampled(pipeline, picture, **settings):
    frames_THWC = pipeline(
        (picture.permute(1, 2, 0) + 1) / 2,
        height=128,
        width=128,
        num_inference_steps=12,
        min_guidance_scale=1.0,
        max_guidance_scale=1.0,
        contrast=1.0,
        **settings,
    ).frames
    return frames_THWC.permute(0, 3, 1, 2) * 2 - 1


def test_the_files_are_small():
    assert sum(file.stat().st_size for file in FILES) <= 20e6
    assert PICTURE.stat().st_size <= 200e3


def test_the_first_frame_is_recognised(pipeline, picture):
    frames = sampled(pipeline, picture, num_frames=4)
    assert correlation(frames[0], picture) > 0.95


@pytest.mark.slow
@torch.no_grad()
def test_the_picture_moves_for_all_128_frames_without_flicker(pipeline, picture):
    frames = sampled(pipeline, picture, num_frames=128)
    truth = pipeline.vae.decode(pipeline.vae.encode(ladder(picture)))

    levels, measures = motion_levels(frames, truth), measure(frames)

    assert is_monotone(levels)
    assert levels[-1] >= 20
    assert measures.difference <= 0.02
    assert measures.loop >= 2
    assert measures.freeze == 0
    assert 0.85 <= measures.contrast <= 1.15
    true_frames = ladder(picture, 128)
    assert min(correlation(made, true) for made, true in zip(frames, true_frames, strict=True)) > 0.9
