"""Finding damage in videos, and reading clips out of them."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from training_videos import cut, flip_bits, frame_numbers_seen, packets, write_video

from exvideo_core.errors import ExVideoError, VideoError
from exvideo_core.training.data.videos import (
    Sampling,
    clip_fps,
    examine,
    frame_numbers,
    last_start,
    read_clip,
    shortcoming,
)
from exvideo_core.video import probe, read_video, save_video
from exvideo_core.video.ffmpeg import executable

ODD_TIMES = [7, 8, 11, 12, 14, 15, 22, 23, *range(30, 70)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gop50.mp4", {"g": "50", "bf": "3"}),
        ("open.mp4", {"x264-params": "open-gop=1:keyint=9:min-keyint=9:bframes=3"}),
        ("late.mkv", {"g": "12", "bf": "2", "pts": [i + 100 for i in range(48)]}),
        ("odd.mkv", {"g": "10", "bf": "2", "pts": ODD_TIMES}),
        ("odd.mp4", {"g": "10", "bf": "3", "pts": ODD_TIMES}),
        ("xvid.avi", {"codec": "mpeg4", "g": "10", "bf": "2", "b": "4000000"}),
        ("vp9.webm", {"codec": "libvpx-vp9", "g": "10", "deadline": "realtime", "cpu-used": "8"}),
    ],
)
def test_clip_from_the_middle_is_what_a_complete_decode_gives(tmp_path, name, options):
    path = write_video(tmp_path / name, num_frames=48, noise=4, **options)
    facts = examine(path)
    whole = read_clip(path, facts, 0, Sampling(num_frames=48), 64, 48)

    assert frame_numbers_seen(whole) == list(range(48))
    for start in (0, 1, 8, 9, 10, 23, 30, 45):
        clip = read_clip(path, facts, start, Sampling(num_frames=3), 64, 48)
        assert torch.equal(clip, whole[start : start + 3]), start


def test_clip_is_decoded_from_a_keyframe_near_it_and_not_beyond_its_end(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=48, noise=15, g="10", bf="2", sc_threshold="0")
    facts = examine(path)
    contents = path.read_bytes()
    hole = contents.index(packets(path)[22])
    path.write_bytes(contents[:hole] + bytes(200) + contents[hole + 200 :])

    for start in (0, 10, 30, 39):  # keyframes are 0, 10, 20, 30 and 40
        clip = read_clip(path, facts, start, Sampling(num_frames=9), 64, 48)
        assert frame_numbers_seen(clip) == list(range(start, start + 9))
    with pytest.raises(VideoError):
        read_clip(path, facts, 20, Sampling(num_frames=9), 64, 48)


def test_stride_and_frame_rate_choose_the_frames(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=24)
    facts = examine(path)
    clip = read_clip(path, facts, 2, Sampling(num_frames=4, stride=5), 64, 48)
    slower = Sampling(num_frames=4, fps=12)

    assert frame_numbers_seen(clip) == [2, 7, 12, 17]
    assert clip_fps(facts, Sampling(num_frames=4, stride=5)) == pytest.approx(6)
    assert frame_numbers_seen(read_clip(path, facts, 2, slower, 64, 48)) == [2, 4, 7, 9]  # 2.5 frames apart
    assert clip_fps(facts, slower) == 12


def test_frame_rate_goes_by_time_stamps_where_frames_are_uneven(tmp_path):
    path = write_video(tmp_path / "odd.mkv", num_frames=48, pts=ODD_TIMES, g="10", bf="2")
    facts = examine(path)

    # on the screen at 7/30 s and every 1/10 s from there: 7, 10, 13, 16, 19, 22
    assert frame_numbers(facts, 0, Sampling(num_frames=6, fps=10)) == [0, 1, 3, 5, 5, 6]


def test_frame_that_comes_late_by_rounding_counts_as_in_time(tmp_path):
    facts = examine(write_video(tmp_path / "a.webm", num_frames=9, codec="libvpx", deadline="realtime"))

    assert facts.pts == (0, 33, 67, 100, 133, 167, 200, 233, 267), "in milliseconds"
    assert frame_numbers(facts, 0, Sampling(num_frames=5, fps=15)) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("sampling", [Sampling(num_frames=7, stride=3), Sampling(num_frames=9, fps=13.7)])
def test_last_start_is_the_last_from_which_a_clip_fits(tmp_path, sampling):
    path = write_video(tmp_path / "a.webm", num_frames=24, codec="libvpx-vp9", deadline="realtime")
    facts = examine(path)
    last = last_start(facts, sampling)

    assert 0 < last < 23
    assert len(read_clip(path, facts, last, sampling, 64, 48)) == sampling.num_frames
    assert frame_numbers(facts, last, sampling)[-1] in (22, 23)
    with pytest.raises(ValueError, match="start"):
        frame_numbers(facts, last + 1, sampling)


def test_video_of_which_no_clip_can_be_taken_says_why(tmp_path):
    facts = examine(write_video(tmp_path / "a.mp4", num_frames=24))

    assert shortcoming(facts, Sampling(num_frames=24)) is None
    assert shortcoming(facts, Sampling(num_frames=25)) == "has 24 frames; a clip needs 25"
    assert shortcoming(facts, Sampling(num_frames=2, fps=60)) == "has 30 frames per second; clips are to have 60"
    assert shortcoming(facts, Sampling(num_frames=20, fps=15)) == "has 0.8 seconds; a clip needs 1.33"
    assert last_start(facts, Sampling(num_frames=8, fps=30.2)) >= 0, "29.97 frames per second pass for 30"


def test_frames_cover_the_asked_size_and_keep_their_centre_and_colours(tmp_path):
    frames = torch.zeros(4, 48, 96, 3)
    frames[:, :, :24] = torch.tensor([1.0, 0, 0])  # cut off on both sides
    frames[:, :, 72:] = torch.tensor([1.0, 0, 0])
    frames[:, :, 24:72] = torch.tensor([0.2, 0.4, 0.8])
    path = save_video(frames, tmp_path / "a.mp4", fps=30)
    clip = read_clip(path, examine(path), 0, Sampling(num_frames=4), 32, 32)

    assert clip.shape == (4, 32, 32, 3)
    assert clip.dtype == torch.uint8
    assert (clip[:, :, 3:-3].float() - torch.tensor([51.0, 102, 204])).abs().max() < 6


def test_video_that_was_filmed_on_its_side_stands_upright(tmp_path):
    upright = torch.rand(4, 3, 2, 3).repeat_interleave(16, 1).repeat_interleave(16, 2)
    flat = save_video(upright.rot90(1, (1, 2)), tmp_path / "flat.mp4", fps=30)
    arguments = ["-display_rotation", "270", "-i", str(flat), "-c", "copy", str(tmp_path / "side.mp4")]
    subprocess.run([executable(), "-v", "error", *arguments], check=True)
    facts = examine(tmp_path / "side.mp4")
    clip = read_clip(tmp_path / "side.mp4", facts, 0, Sampling(num_frames=4), 32, 48)

    assert (facts.width, facts.height) == (32, 48)
    assert (clip.float() / 255 - upright).abs().mean() < 0.05


@pytest.mark.parametrize(("name", "largest"), [("a.mov", 0), ("a.webm", 0), ("a.mp4", 12), ("side.mp4", 12)])
def test_the_reader_of_whole_videos_follows_the_same_rules(tmp_path, name, largest):
    x = torch.linspace(0, 2, 64).expand(48, 64)
    wave = torch.stack([x.sin(), (x + torch.linspace(0, 3, 48)[:, None]).cos(), (2 * x).sin()], dim=-1) / 2 + 0.5
    path = save_video(torch.stack([wave, wave.flip(1), wave]), tmp_path / name.replace("side", "flat"), fps=24)
    if name == "side.mp4":
        arguments = ["-display_rotation", "90", "-i", str(path), "-c", "copy", str(tmp_path / name)]
        subprocess.run([executable(), "-v", "error", *arguments], check=True)
    info, facts = probe(tmp_path / name), examine(tmp_path / name)
    clip = read_clip(tmp_path / name, facts, 0, Sampling(num_frames=3), info.width, info.height)
    whole = torch.from_numpy(np.stack(list(read_video(tmp_path / name))))

    assert (facts.width, facts.height, facts.num_frames) == (info.width, info.height, info.num_frames)
    assert facts.fps == pytest.approx(float(info.fps), rel=0.005)  # WebM rounds time stamps to milliseconds
    # PyAV ignores where the chroma samples of H.264 lie, half a pixel apart
    assert (clip.int() - whole.int()).abs().max() <= largest


@pytest.mark.parametrize("contents", [b"", b"this is not a video\n" * 50])
def test_file_that_is_no_video_is_refused(tmp_path, contents):
    (tmp_path / "a.mp4").write_bytes(contents)

    with pytest.raises(VideoError, match=r"^a\.mp4 cannot be decoded"):
        examine(tmp_path / "a.mp4")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
@pytest.mark.parametrize("share", [0.3, 0.5])
def test_truncated_file_is_found(tmp_path, name, share):
    path = write_video(tmp_path / name, num_frames=72, noise=15)
    examine(path)

    with pytest.raises(VideoError, match=r"^a\.\w+ (is cut short|cannot be decoded)"):
        examine(cut(path, share))


def test_flipped_bits_are_found_in_a_complete_decode(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=48, noise=15, g="50", bf="3")
    sound = path.read_bytes()

    for seed in range(12):
        path.write_bytes(sound)
        with pytest.raises(VideoError, match=r"^a\.mp4 "):
            examine(flip_bits(path, count=40, seed=seed))


def test_frame_that_the_decoder_drops_in_silence_is_found(tmp_path):
    path = write_video(tmp_path / "a.webm", codec="libvpx", deadline="realtime")
    contents = bytearray(path.read_bytes())
    contents[contents.index(packets(path)[12])] &= ~0x10  # VP8's show_frame (RFC 6386, section 9.1)
    path.write_bytes(contents)

    with pytest.raises(VideoError, match=r"^a\.webm is damaged: 1 of its 24 frames cannot be decoded"):
        examine(path)


def test_changed_file_is_not_read_with_the_facts_of_the_old_one(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=24)
    facts = examine(path)
    write_video(path, num_frames=24, pts=[3 * i for i in range(24)])

    with pytest.raises(VideoError, match=r"^a\.mp4 has changed since it was examined"):
        read_clip(path, facts, 5, Sampling(num_frames=8), 64, 48)


def test_reading_without_pyav_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)

    with pytest.raises(ExVideoError, match=r"pip install 'exvideo\[train\]'") as caught:
        examine(tmp_path / "a.mp4")
    assert not isinstance(caught.value, VideoError), "else every video would count as a bad one"
