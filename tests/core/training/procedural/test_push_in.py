"""The demo's motion, and the measures that judge it."""

import pytest
import torch

from exvideo_core.evaluation.measures import measure
from exvideo_core.training.procedural.pictures import Pictures, dead_leaves
from exvideo_core.training.procedural.push_in import LAST_FRAME, ZOOM, progress, push_in, scale_of
from tools.demo_models.svd.autoencoder import random_views, seen
from tools.demo_models.svd.measure import correlation, is_monotone, ladder, motion_levels


@pytest.fixture(scope="module")
def picture():
    generator = torch.Generator().manual_seed(3)
    return Pictures(leaves=4, photos=False).crops(1, 64, generator)[0]


@pytest.fixture(scope="module")
def clip(picture):
    return push_in(picture, torch.linspace(0, 1, 32))


def test_the_first_frame_is_the_picture(picture):
    torch.testing.assert_close(push_in(picture, torch.zeros(1))[0], picture, atol=1e-4, rtol=0)


def test_a_full_clip_ends_at_the_whole_zoom():
    assert progress(torch.tensor(LAST_FRAME)) == 1
    assert scale_of(torch.tensor(1.0)) == pytest.approx(1 / ZOOM)


def test_half_the_motion_bucket_is_half_the_way():
    torch.testing.assert_close(progress(torch.tensor(100), 63.5), progress(torch.tensor(100)) / 2)


def test_pushing_in_twice_is_pushing_in_further(picture):
    smooth = torch.nn.functional.avg_pool2d(picture[None], 9, stride=1, padding=4)[0]
    twice = push_in(push_in(smooth, torch.tensor([0.4]))[0], torch.tensor([0.6]))[0]
    torch.testing.assert_close(twice, push_in(smooth, torch.ones(1))[0], atol=0.03, rtol=0)


def test_random_views_stay_inside():
    generator = torch.Generator().manual_seed(0)
    scale, shift = random_views(torch.zeros(100, 3, 4, 4), generator)
    assert ((shift.abs() + scale[:, None]) <= 1).all()
    assert seen(torch.ones(100, 3, 4, 4), (scale, shift)).sub(1).abs().max() < 1e-5


def test_leaves_are_the_same_for_the_same_seed():
    assert dead_leaves(5, 64).tobytes() == dead_leaves(5, 64).tobytes()
    assert dead_leaves(5, 64).tobytes() != dead_leaves(6, 64).tobytes()


def test_motion_levels_find_the_true_motion(picture):
    steps = ladder(picture, 25)
    levels = motion_levels(steps + 0.02 * torch.randn(steps.shape, generator=torch.Generator().manual_seed(0)), steps)
    assert levels == list(range(25))


@pytest.mark.parametrize(("levels", "expected"), [([0, 1, 2, 3], True), ([0, 2, 1, 3], True), ([0, 5, 2, 6], False)])
def test_motion_that_goes_back_is_not_monotone(levels, expected):
    assert is_monotone(levels, every=1) is expected


def test_steady_motion_measures_well(clip):
    measures = measure(clip)
    assert measures.loop > 1.5
    assert measures.freeze == 0
    assert measures.acceleration < 1.3
    assert 0.8 < measures.contrast < 1.2


def test_flicker_is_measured(clip):
    generator = torch.Generator().manual_seed(0)
    flickering = clip + 0.2 * torch.randn(len(clip), 1, 1, 1, generator=generator)
    assert measure(flickering).difference > 2 * measure(clip).difference
    assert measure(flickering).acceleration > 1.4


def test_a_frozen_clip_is_measured(clip):
    frozen = torch.cat([clip[:16], clip[15:16].expand(16, -1, -1, -1)])
    assert measure(frozen).freeze == pytest.approx(16 / 31)


def test_a_loop_is_measured(clip):
    assert measure(torch.cat([clip[:8], clip[:8].flip(0)] * 2)).loop < 0.1


def test_fading_is_measured(clip):
    fading = clip * torch.linspace(1, 0.4, len(clip))[:, None, None, None]
    assert measure(fading).contrast < 0.6 * measure(clip).contrast


def test_colour_drift_is_measured(clip):
    drifting = clip + torch.linspace(0, 0.5, len(clip))[:, None, None, None]
    assert measure(drifting).drift > measure(clip).drift + 0.2


def test_correlation_knows_no_brightness(picture):
    assert correlation(picture, 0.5 * picture + 0.2) == pytest.approx(1, abs=1e-5)
    assert correlation(picture, -picture) == pytest.approx(-1, abs=1e-5)
