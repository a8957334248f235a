"""Training on whatever is in a folder: bad files are left out and reported, and only bad ones end it at once."""

import json
import time

import pytest
from training_runs import cogvideox_config, column, svd_config
from training_videos import cut, flip_bits, write_video

from exvideo_core.cli import main

BAD = {"cut.mp4", "empty.mp4", "text.mp4", "flipped.mp4", "short.mp4"}


@pytest.fixture
def folder(tmp_path):
    """Five sound videos and five of the others."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(5):
        write_video(videos / f"good_{number}.mp4", 24, size=(144, 128), noise=number)
        (videos / f"good_{number}.txt").write_text(f"a grey picture, number {number}")
    add_bad(videos)
    return videos


def add_bad(videos):
    cut(write_video(videos / "cut.mp4", 24, size=(144, 128)), 0.6)
    (videos / "empty.mp4").write_bytes(b"")
    (videos / "text.mp4").write_text("perhaps an error message, saved in place of a video\n" * 20)
    flip_bits(write_video(videos / "flipped.mp4", 24, size=(144, 128), noise=9), 400, seed=0)
    write_video(videos / "short.mp4", 3, size=(144, 128))


@pytest.mark.parametrize(
    ("config_of", "size"), [(svd_config, 128), (cogvideox_config, 96)], ids=["svd", "cogvideox"]
)  # fmt: skip
def test_bad_files_are_left_out_and_each_is_reported(config_of, size, folder, tmp_path, caplog):
    data = {"data__source": str(folder), "data__width": size, "data__height": size, "data__fps": None}
    config = config_of(tmp_path, run__steps=2, **data)
    with caplog.at_level("WARNING"):
        assert main(["train", str(config), "--device", "cpu"]) == 0

    report = tmp_path / "run" / "cache" / "bad_files.jsonl"
    found = {
        line["path"].rpartition("/")[2]: line["reason"] for line in map(json.loads, report.read_text().splitlines())
    }
    assert found.keys() == BAD
    assert all(len(reason) > 10 for reason in found.values())
    assert f"5 of 10 videos are not used; see {report}" in caplog.text
    assert len(column(tmp_path / "run", "loss")) == 2
    assert len(list((tmp_path / "run" / "cache").glob("??/*.safetensors"))) == 5


def test_a_folder_of_only_bad_files_stops_the_run_within_seconds(tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    add_bad(videos)
    config = svd_config(tmp_path, data__source=str(videos))
    began = time.monotonic()

    assert main(["train", str(config), "--device", "cpu"]) == 2
    assert time.monotonic() - began < 10
    message = capsys.readouterr().err.splitlines()[-1]
    assert "of 5 videos cannot be used" in message
    assert "bad_files.jsonl" in message


def test_more_bad_files_than_allowed_stop_the_run(folder, tmp_path, capsys):
    config = svd_config(tmp_path, data__source=str(folder), data__max_bad_share=0.2)

    assert main(["train", str(config), "--device", "cpu"]) == 2
    assert "more than the share of 0.2 that data.max_bad_share allows" in capsys.readouterr().err


def test_held_out_clips_are_of_other_videos(folder, tmp_path, capsys):
    config = svd_config(tmp_path, data__source=str(folder), data__held_out=5)

    assert main(["train", str(config), "--device", "cpu"]) == 2
    assert "data.held_out is 5, and there are 5 usable videos" in capsys.readouterr().err
