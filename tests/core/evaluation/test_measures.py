"""Each defect of a clip moves its own measure, and leaves a good clip's others where they were."""

from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from exvideo_core.errors import VideoError
from exvideo_core.evaluation.measures import (
    LONGEST_SIDE,
    MOST_FRAMES,
    USUAL,
    curves,
    measure,
    read_reduced,
    reduced_size,
    sharpness,
)
from exvideo_core.video import probe, save_video

FRAMES = 32
RISING = torch.linspace(0, 1, FRAMES)[:, None, None, None]


def discs(side=48):
    """Two discs that cross a patterned ground and bounce off its borders; values stay clear of -1 and 1."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    ground_HW = 0.25 * torch.sign(torch.sin(x * 0.35 + 0.2) * torch.sin(y * 0.3 + 0.2))
    frames = []
    for t in range(FRAMES):
        frame_3HW = ground_HW.expand(3, -1, -1)
        for colour, start, speed in (((0.6, -0.5, 0.1), 0.1, 1.3), ((-0.6, 0.4, 0.5), 0.7, 0.9)):
            centre = abs((start + speed * t / FRAMES) % 2 - 1) * side
            inside = (8 - ((x - centre) ** 2 + (y - side / 2 - 9 * start) ** 2).sqrt()).clamp(0, 1)
            frame_3HW = frame_3HW * (1 - inside) + torch.tensor(colour)[:, None, None] * inside
        frames.append(frame_3HW)
    return torch.stack(frames)


@pytest.fixture(scope="module")
def clip():
    return discs()


def noisy(clip):
    return clip + 0.1 * torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))


def flickering(clip):
    return clip + 0.1 * torch.randn(FRAMES, 1, 1, 1, generator=torch.Generator().manual_seed(6))


def frozen(clip):
    return torch.cat([clip[:12], clip[11:12].expand(20, -1, -1, -1)])


def ping_pong(clip):
    """Runs to and fro over eight places, as an extension does whose frame positions are folded."""
    places = torch.arange(FRAMES) % 14
    return clip[torch.minimum(places, 14 - places)]


def fading(clip):
    return clip * (1 - 0.6 * RISING)


def drifting(clip):
    return clip + 0.4 * RISING * torch.tensor([1.0, 0.0, -1.0])[:, None, None]


def softening(clip):
    """Blurred more and more, by a box as wide as two pixels at the end."""
    padded = F.pad(clip, (1, 1, 1, 1), mode="replicate")
    return torch.lerp(clip, F.avg_pool2d(padded, 3, stride=1), RISING)


DEFECTS = {
    noisy: {"acceleration"},
    flickering: {"acceleration"},
    frozen: {"freeze", "loop"},  # frames that repeat are also old ones
    ping_pong: {"loop"},
    fading: {"contrast"},
    drifting: {"drift"},
    softening: {"sharpness"},
}


def suspicious(frames):
    measures = asdict(measure(frames))
    return {name for name, (low, high) in USUAL.items() if not low <= measures[name] < high}


def test_a_good_clip_is_not_suspicious(clip):
    assert suspicious(clip) == set()


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_a_defect_makes_only_its_own_measures_suspicious(defect, clip):
    assert suspicious(defect(clip)) == DEFECTS[defect]


@pytest.mark.parametrize("defect", [noisy, flickering])
def test_noise_and_flicker_are_much_difference(defect, clip):
    assert measure(defect(clip)).difference > 2 * measure(clip).difference


def test_half_precision_measures_the_same(clip):
    half, single = asdict(measure(clip.half())), asdict(measure(clip))
    assert half == pytest.approx(single, rel=0.01, abs=1e-3)


def test_the_loop_is_found_as_in_the_distances_of_all_frames(clip):
    flat_TP = noisy(clip).flatten(1)
    ratios = [
        (flat_TP[: t - 3] - flat_TP[t]).norm(dim=1).min() / (flat_TP[t] - flat_TP[t - 1]).norm()
        for t in range(4, FRAMES)
    ]
    assert measure(noisy(clip)).loop == pytest.approx(float(torch.stack(ratios).median()), rel=1e-4)


@pytest.mark.parametrize("level", [-1.0, 0.3])
def test_an_empty_clip_is_frozen_and_has_finite_measures(level):
    measures = measure(torch.full((8, 3, 6, 6), level))
    assert measures.freeze == 1
    assert (measures.contrast, measures.sharpness, measures.drift, measures.acceleration) == (1, 1, 0, 0)


def test_a_fade_in_from_black_has_finite_measures(clip):
    measures = measure(torch.cat([torch.full_like(clip[:10], -1), clip]))
    assert all(torch.tensor(list(asdict(measures).values())).isfinite())


@pytest.mark.parametrize("evaluate", [measure, curves])
def test_five_frames_are_too_few(evaluate, clip):
    evaluate(clip[:6])
    with pytest.raises(VideoError, match="has 5 frames; measuring needs at least 6"):
        evaluate(clip[:5])


def test_sharpness_knows_no_contrast_and_no_colour(clip):
    torch.testing.assert_close(sharpness(0.5 * clip[0] + 0.2), sharpness(clip[0]), rtol=0.01, atol=0)


def test_a_single_row_of_pixels_has_a_sharpness():
    assert sharpness(torch.rand(3, 1, 6)).isfinite()


def test_curves_start_unchanged(clip):
    along = curves(drifting(fading(softening(clip))), chunk=8)
    assert (along.drift[0], along.contrast[0], along.sharpness[0]) == (0, 1, 1)


@pytest.mark.parametrize(
    ("defect", "field", "sign"), [(fading, "contrast", -1), (drifting, "drift", 1), (softening, "sharpness", -1)]
)
def test_a_slow_defect_grows_along_its_curve(defect, field, sign, clip):
    still = clip[:1].expand(FRAMES, -1, -1, -1)
    values = torch.tensor(getattr(curves(defect(still), chunk=8), field))
    assert (sign * values.diff() > 0.05).all()


def test_a_freeze_is_seen_where_it_begins(clip):
    along = curves(torch.cat([clip[:16], clip[15:16].expand(16, -1, -1, -1)]), chunk=8)
    assert min(along.difference[:2]) > 0.01
    assert along.difference[2:] == (0, 0)


def test_a_step_belongs_to_the_chunk_of_its_second_frame(clip):
    cut = torch.cat([clip[:1].expand(16, -1, -1, -1), clip[-1:].expand(16, -1, -1, -1)])
    before, start, jump, after = curves(cut, chunk=8).difference
    assert before == start == after == 0 < jump


@pytest.mark.parametrize(
    ("num_frames", "chunk", "starts", "middles"),
    [
        (32, 16, (0, 16), (7.5, 23.5)),
        (23, 16, (0,), (11,)),  # 7 more are less than half
        (24, 16, (0, 16), (7.5, 19.5)),
        (6, 16, (0,), (2.5,)),
        (7, 2, (0, 2, 4, 6), (0.5, 2.5, 4.5, 6)),
    ],
)
def test_a_short_remainder_joins_the_last_chunk(num_frames, chunk, starts, middles, clip):
    along = curves(clip[:num_frames], chunk)
    assert (along.starts, along.middles) == (starts, middles)
    assert len(along.difference) == len(along.drift) == len(along.contrast) == len(along.sharpness) == len(starts)


def test_a_chunk_of_one_frame_has_no_step(clip):
    with pytest.raises(ValueError, match="at least 2"):
        curves(clip, chunk=1)


@pytest.mark.parametrize(
    ("size", "reduced"), [((1024, 576), (256, 144)), ((200, 256), (200, 256)), ((3000, 2), (256, 1))]
)
def test_the_longer_side_is_reduced(size, reduced):
    assert reduced_size(*size) == reduced


def test_a_file_is_read_small_and_its_detail_is_measured_at_full_size(tmp_path):
    """Lines of one pixel, on coarse stripes and only in the first half of the clip, are gone in the reduced frames."""
    x = torch.arange(2 * LONGEST_SIDE)
    coarse_W, fine_W = 0.5 + 0.3 * (x // 32 % 2 - 0.5), 0.2 * (x % 2 - 0.5)
    moving_TW = torch.stack([coarse_W.roll(2 * t) + fine_W * (t < FRAMES // 2) for t in range(FRAMES)])
    path = save_video(moving_TW[:, None, :, None].expand(-1, 8, -1, 3), tmp_path / "clip.mp4", quality="best")

    calls = []
    frames_T3HW, sharpness_T = read_reduced(path, probe(path), lambda *call: calls.append(call))

    assert frames_T3HW.shape == (FRAMES, 3, 4, LONGEST_SIDE)
    assert frames_T3HW.float().aminmax() == pytest.approx((-0.3, 0.3), abs=0.03)
    assert calls[-1] == (FRAMES, FRAMES)
    assert measure(frames_T3HW).sharpness == pytest.approx(1, abs=0.05)
    assert measure(frames_T3HW, sharpness_T).sharpness < 0.6
    assert curves(frames_T3HW, 16, sharpness_T).sharpness[1] < 0.6


@pytest.mark.parametrize(("num_frames", "words"), [(5, "at least 6"), (MOST_FRAMES + 1, "Cut it into parts")])
def test_files_of_unfit_lengths_are_refused_by_name(num_frames, words, tmp_path):
    path = save_video(torch.zeros(num_frames, 2, 2, 3), tmp_path / "clip.mp4")
    with pytest.raises(VideoError, match=rf"clip\.mp4 has {num_frames} frames.*{words}"):
        read_reduced(path, probe(path))
