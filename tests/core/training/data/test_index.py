"""Which videos of a training set are usable, and remembering it."""

import json
import os

import pytest
from training_videos import write_video

from exvideo_core.errors import ExVideoError
from exvideo_core.training.data import index as index_module
from exvideo_core.training.data.index import index_videos
from exvideo_core.training.data.listing import Listed
from exvideo_core.training.data.videos import Sampling, examine

EIGHT = Sampling(num_frames=8)


@pytest.fixture
def listed(tmp_path):
    """Good, too short, no video, missing, good."""
    paths = [tmp_path / f"{name}.mp4" for name in ("good", "short", "text", "missing", "fine")]
    write_video(paths[0], num_frames=12)
    write_video(paths[1], num_frames=5)
    paths[2].write_text("no video")
    write_video(paths[4], num_frames=8)
    return [Listed(path=path, caption=path.stem) for path in paths]


@pytest.fixture
def examined(monkeypatch):
    """The names of the files that were really decoded."""
    names = []
    monkeypatch.setattr(index_module, "examine", lambda path: names.append(path.name) or examine(path))
    return names


def reasons(folder):
    lines = (folder / "bad_files.jsonl").read_text(encoding="utf-8").splitlines()
    return {os.path.basename(line["path"]): line["reason"] for line in map(json.loads, lines)}


@pytest.mark.parametrize("workers", [1, 3])
def test_usable_videos_are_told_from_bad_ones_in_listed_order(tmp_path, listed, workers):
    told = []
    index = index_videos(listed, tmp_path / "cache", EIGHT, 0.6, lambda *step: told.append(step), workers)

    assert [(video.path.name, video.caption) for video in index.videos] == [("good.mp4", "good"), ("fine.mp4", "fine")]
    assert [file.path.name for file in index.bad] == ["short.mp4", "text.mp4", "missing.mp4"]
    assert reasons(tmp_path / "cache") == {
        "short.mp4": "has 5 frames; a clip needs 8",
        "text.mp4": "text.mp4 cannot be decoded: Invalid data found when processing input.",
        "missing.mp4": "cannot be read: No such file or directory",
    }
    assert told == [(number, 5) for number in range(1, 6)]


def test_second_pass_decodes_nothing_and_finds_the_same(tmp_path, listed, examined):
    first = index_videos(listed, tmp_path, EIGHT, 0.6)
    assert examined == ["good.mp4", "short.mp4", "text.mp4", "fine.mp4"]

    assert index_videos(listed, tmp_path, EIGHT, 0.6) == first
    assert len(index_videos(listed, tmp_path, Sampling(num_frames=5), 0.6).videos) == 3, "short.mp4 is long enough now"
    assert len(examined) == 4


def test_changed_files_and_those_that_were_missing_are_looked_at_again(tmp_path, listed, examined):
    before = index_videos(listed, tmp_path, EIGHT, 0.6)
    examined.clear()
    write_video(listed[2].path, num_frames=9)
    write_video(listed[3].path, num_frames=9)
    os.utime(listed[0].path, ns=(0, 0))
    after = index_videos(listed, tmp_path, EIGHT, 0.6)

    assert examined == ["good.mp4", "text.mp4", "missing.mp4"]
    assert [video.path.stem for video in after.videos] == ["good", "text", "missing", "fine"]
    assert reasons(tmp_path).keys() == {"short.mp4"}
    assert before.videos[0].identity != after.videos[0].identity
    assert before.videos[1].identity == after.videos[-1].identity


def test_interrupted_pass_goes_on_where_it_was(tmp_path, listed, examined):
    def interrupt(number, total):
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_videos(listed, tmp_path, EIGHT, 0.6, interrupt)
    file = tmp_path / "index.jsonl"
    file.write_text(file.read_text()[:-20])  # short.mp4's line is half-written
    examined.clear()
    index = index_videos(listed, tmp_path, EIGHT, 0.6)
    examined_before_the_end = list(examined)

    assert examined_before_the_end == ["short.mp4", "text.mp4", "fine.mp4"]
    assert index_videos(listed, tmp_path, EIGHT, 0.6) == index
    assert examined == examined_before_the_end


def test_facts_survive_the_index_file_exactly(tmp_path):
    times = [7, 8, 11, 12, 14, 15, 22, 23, 24, 25, 40]
    path = write_video(tmp_path / "odd.mkv", num_frames=11, pts=times)
    index_videos([Listed(path=path)], tmp_path, EIGHT, 0.5)

    assert index_videos([Listed(path=path)], tmp_path, EIGHT, 0.5).videos[0].facts == examine(path)


def test_pass_stops_as_soon_as_too_many_files_are_bad(tmp_path, examined):
    listed = [Listed(path=tmp_path / f"{i}.mp4") for i in range(400)]
    for entry in listed:
        entry.path.write_text("no video")

    with pytest.raises(ExVideoError, match=r"^21 of 400 .*first: 0\.mp4 cannot be decoded.* share of 0\.05 that data"):
        index_videos(listed, tmp_path, EIGHT, 0.05)
    assert len(reasons(tmp_path)) == 21
    assert len(examined) < 400


def test_only_bad_files_are_refused_whatever_share_is_allowed(tmp_path, listed):
    with pytest.raises(
        ExVideoError, match=r"^3 of 3 videos cannot be used \(first: short\.mp4 has 5 frames; .*\); see "
    ):
        index_videos(listed[1:4], tmp_path, EIGHT, 1.0)


def test_video_with_two_captions_is_examined_once_and_used_twice(tmp_path, listed, examined):
    twice = [listed[0], Listed(path=listed[0].path, caption="another")]

    assert [video.caption for video in index_videos(twice, tmp_path, EIGHT, 0).videos] == ["good", "another"]
    assert examined == ["good.mp4"]
