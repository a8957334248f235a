"""The embedded demo model that is shipped: small enough, and good enough to see what the pack does."""

from pathlib import Path

import pytest
import torch

from exvideo_core import apply_lora, load_cogvideox, load_svd
from exvideo_core.evaluation.measures import measure
from exvideo_core.families.cogvideox.files import DEMO_LORA, DEMO_TEXT_ENCODER, DEMO_TRANSFORMER, DEMO_VAE
from exvideo_core.families.svd.files import DEMO_CHECKPOINT, DEMO_EXTENSION
from tools.demo_models.cogvideox.measure import PROMPTS, look_at
from tools.demo_models.svd.measure import correlation, from_file, is_monotone, ladder, motion_levels

PICTURE = Path(__file__).parents[3] / "samples" / "astronaut.png"
FILES = (DEMO_CHECKPOINT, DEMO_EXTENSION)


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


COGVIDEOX_FILES = (
    DEMO_TRANSFORMER,
    DEMO_TEXT_ENCODER,
    DEMO_VAE,
    DEMO_LORA,
)


@pytest.fixture
def cogvideox():
    transformer, text_encoder, vae, _ = COGVIDEOX_FILES
    return load_cogvideox(transformer, text_encoder=text_encoder, vae=vae, device="cpu")


def seen(pipeline, words, num_frames):
    frames_FHW3 = pipeline(
        words.prompt(), num_frames=num_frames, height=96, width=96, num_inference_steps=20, guidance_scale=3.0
    ).frames
    return look_at(frames_FHW3, words)


def test_cogvideox_files_are_small():
    assert sum(file.stat().st_size for file in COGVIDEOX_FILES) <= 25e6


def test_cogvideox_shows_the_words(cogvideox):
    found = seen(cogvideox, PROMPTS[9], num_frames=33)  # never trained

    assert (found.colour, found.ground, found.shape) == (True, True, True)
    assert found.is_moving_rightly


@pytest.mark.slow
def test_cogvideox_and_its_lora_show_the_words_for_129_frames(cogvideox):
    base = [seen(cogvideox, words, 129) for words in PROMPTS[::3]]
    apply_lora(cogvideox, DEMO_LORA)
    extended = [seen(cogvideox, words, 129) for words in PROMPTS]

    assert all(found.colour and found.ground for found in extended)
    assert sum(found.motion for found in extended) >= 11
    assert sum(found.shape for found in extended) >= 10
    assert sum(found.is_moving_rightly for found in base) < sum(found.is_moving_rightly for found in extended[::3])
    assert sum(found.track_error for found in extended[::3]) < 0.5 * sum(found.track_error for found in base)
