"""Choosing clips, and encoding each of them once."""

import json
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from training_videos import frame_numbers_seen, write_video

from exvideo_core.errors import ExVideoError
from exvideo_core.training.data.cache import cache_clips, plan_clips, read_cached, usable_clips
from exvideo_core.training.data.index import Index, IndexedVideo, index_videos
from exvideo_core.training.data.listing import Listed
from exvideo_core.training.data.videos import Sampling, VideoFacts
from exvideo_core.training.sources import content_mark

FOUR = Sampling(num_frames=4)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Index:
    """Six videos of 24 frames."""
    folder = tmp_path_factory.mktemp("videos")
    paths = [write_video(folder / f"{name}.mp4", num_frames=24) for name in "abcdef"]
    return index_videos([Listed(path=path, caption=f"clip {path.stem}") for path in paths], folder, FOUR, 0)


def plan(videos, folder, clips_per_video=1, seed=0, fingerprint="vae", sampling=FOUR):
    return plan_clips(videos, folder, sampling, 32, 24, clips_per_video, seed, fingerprint)


class CountingEncode:
    """Keeps the frames as they are; counts how often it is built and called."""

    def __init__(self):
        self.built, self.called = 0, 0

    def __call__(self):
        self.built += 1
        return self.encode

    def encode(self, frames, caption, fps):
        self.called += 1
        return {"frames": frames, "fps": torch.tensor(fps)}


def test_clips_begin_anywhere_and_do_not_repeat_while_they_can(index, tmp_path):
    starts = [clip.start for clip in plan(index.videos, tmp_path, clips_per_video=21)]

    assert all(sorted(starts[i : i + 21]) == list(range(21)) for i in range(0, 126, 21))
    assert starts[:21] != starts[21:42]
    assert len({clip.start for clip in plan(index.videos, tmp_path)}) > 2
    assert [clip.start for clip in plan(index.videos[:1], tmp_path, clips_per_video=23)][-2:] == starts[:2]


def test_starts_are_evenly_drawn(index, tmp_path):
    starts = [clip.start for seed in range(2100) for clip in plan(index.videos[:1], tmp_path, 2, seed)]

    assert torch.bincount(torch.tensor(starts), minlength=21).sub(200).abs().max() < 60  # 4 sigma


def test_more_clips_per_video_keep_the_earlier_ones(index, tmp_path):
    few, many = plan(index.videos, tmp_path, 2), plan(index.videos, tmp_path, 5)

    assert few == [clip for i, clip in enumerate(many) if i % 5 < 2]


def test_file_name_stands_for_all_that_decides_the_contents(index, tmp_path):
    video = index.videos[0]
    plans = [
        plan([video], tmp_path, 3),
        plan([replace(video, caption="other")], tmp_path, 3),
        plan([replace(video, mtime_ns=1)], tmp_path, 3),
        plan([video], tmp_path, 3, fingerprint="other"),
        plan([video], tmp_path, 3, seed=1),
        plan([video], tmp_path, 3, sampling=Sampling(num_frames=5)),
        plan([video], tmp_path, 3, sampling=Sampling(num_frames=4, fps=30)),
        plan_clips([video], tmp_path, FOUR, 24, 32, 3, 0, "vae"),
    ]

    assert plan([video], tmp_path, 3) == plans[0]
    assert len({tuple(clip.file.name for clip in clips) for clips in plans}) == len(plans)


def test_cached_clips_of_version_0_2_0_are_found(tmp_path):
    facts = VideoFacts(width=4, height=4, pts=tuple(range(9)), time_base=Fraction(1, 25))
    video = IndexedVideo(path=Path("/videos/cat.mp4"), caption="a cat", facts=facts, size=7, mtime_ns=9)
    weights = [{"b": torch.arange(20.0), "a": torch.ones(2, 3).half()}, {"c": torch.zeros(1)}]

    (clip,) = plan_clips([video], tmp_path, Sampling(num_frames=9), 96, 64, 1, 0, content_mark(weights))

    assert content_mark(weights) == "0102215526e8068a411d06ca1653c65a4b83078daa7f8a6c12b7a45c4fec78a6"
    assert clip.file.stem == "14530175c2940694d6484919d7a8a82e365e542c"


def test_cached_clip_holds_the_encoding_of_its_frames(index, tmp_path):
    clips = plan(index.videos, tmp_path)
    encode = CountingEncode()
    cache_clips(clips, encode, index, tmp_path, 0)

    assert encode.called == 6
    assert not (tmp_path / "bad_files.jsonl").exists()
    assert usable_clips(clips, index, tmp_path, 0) == clips
    for clip in clips:
        tensors = read_cached(clip.file)
        assert frame_numbers_seen(tensors["frames"]) == list(range(clip.start, clip.start + 4))
        assert tensors["fps"] == 30
    with safe_open(clips[0].file, framework="pt") as file:
        expected = {"video": "a.mp4", "start": str(clips[0].start), "fps": "30", "caption": "clip a"}
        assert file.metadata() == expected


def test_only_missing_and_damaged_clips_are_made(index, tmp_path):
    clips = plan(index.videos, tmp_path, clips_per_video=2)
    cache_clips(clips, CountingEncode(), index, tmp_path, 0)
    os.truncate(clips[3].file, clips[3].file.stat().st_size - 1)
    clips[5].file.unlink()
    clips[7].file.write_bytes(b"")
    encode = CountingEncode()
    kept = {clip.file: clip.file.stat().st_mtime_ns for clip in clips if clip not in (clips[3], clips[5], clips[7])}
    cache_clips(clips, encode, index, tmp_path, 0)

    assert (encode.built, encode.called) == (1, 3)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert usable_clips(clips, index, tmp_path, 0) == clips
    unused = CountingEncode()
    cache_clips(clips, unused, index, tmp_path, 0)
    assert unused.built == 0, "an encoder of gigabytes is not loaded for nothing"


def test_several_processes_make_each_clip_once_even_if_one_starts_late(index, tmp_path):
    clips = plan(index.videos, tmp_path, clips_per_video=3)
    encodes = [CountingEncode() for _ in range(4)]
    for rank, encode in enumerate(encodes):
        cache_clips(clips, encode, index, tmp_path, 0, rank, 4)

    assert [encode.called for encode in encodes] == [6, 6, 3, 3]
    assert usable_clips(clips, index, tmp_path, 0) == clips


@pytest.fixture
def with_broken_videos(index, tmp_path):
    """A copy of the six, of which b and e break after they were indexed."""
    videos = []
    for video in index.videos:
        path = tmp_path / "videos" / video.path.name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(video.path.read_bytes() if video.path.stem not in "be" else b"broken")
        videos.append(replace(video, path=path))
    return Index(videos=tuple(videos), bad=())


@pytest.mark.parametrize("world", [1, 2, 3])
def test_video_that_fails_is_left_out_by_every_process(with_broken_videos, tmp_path, world):
    clips = plan(with_broken_videos.videos, tmp_path, clips_per_video=2)
    for rank in range(world):
        cache_clips(clips, CountingEncode(), with_broken_videos, tmp_path, 0.4, rank, world)
    usable = usable_clips(clips, with_broken_videos, tmp_path, 0.4)

    lines = (tmp_path / "bad_files.jsonl").read_text().splitlines()
    assert sorted(Path(json.loads(line)["path"]).stem for line in lines) == ["b", "e"]
    assert [clip.video.stem for clip in usable] == list("aaccddff")


def test_video_with_one_clip_missing_is_left_out_whole(index, tmp_path):
    clips = plan(index.videos, tmp_path, clips_per_video=2)
    cache_clips(clips, CountingEncode(), index, tmp_path, 0)
    clips[4].file.unlink()

    assert usable_clips(clips, index, tmp_path, 0.2) == clips[:4] + clips[6:]


def test_too_many_failing_videos_stop_the_pass(with_broken_videos, tmp_path):
    clips = plan(with_broken_videos.videos, tmp_path)

    with pytest.raises(ExVideoError, match=r"^2 of 6 videos cannot be used \(first: b\.mp4 .* data\.max_bad_share"):
        cache_clips(clips, CountingEncode(), with_broken_videos, tmp_path, 0.2)
    for rank in range(2):  # neither sees enough of them by itself
        cache_clips(clips, CountingEncode(), with_broken_videos, tmp_path, 0.2, rank, 2)
    with pytest.raises(ExVideoError, match=r"^2 of 6 videos cannot be used"):
        usable_clips(clips, with_broken_videos, tmp_path, 0.2)


def test_killed_pass_leaves_nothing_half_written(index, tmp_path):
    clips = plan(index.videos, tmp_path)

    def encode(frames, caption, fps):
        if caption == "clip c":
            raise KeyboardInterrupt
        return {"frames": frames}

    with pytest.raises(KeyboardInterrupt):
        cache_clips(clips, lambda: encode, index, tmp_path, 0)
    assert [clip.file.exists() for clip in clips] == [True, True, False, False, False, False]
    encode_rest = CountingEncode()
    cache_clips(clips, encode_rest, index, tmp_path, 0)
    assert encode_rest.called == 4


def test_damaged_cached_clip_is_refused(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"damaged")

    for name in ("a.safetensors", "missing.safetensors"):
        with pytest.raises(ExVideoError, match="run the command again to encode it again"):
            read_cached(tmp_path / name)
