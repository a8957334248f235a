"""Text inside of video files and of their posters."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from exvideo_core.errors import VideoError
from exvideo_core.video import probe, save_poster, save_video

SMALL = torch.rand(4, 32, 48, 3, generator=torch.Generator().manual_seed(0))
NASTY = json.dumps({"text": 'a=b;c#d\\e\n\r\n\t"é\u2028😀[STREAM]', "many": "=;#\\" * 40_000}, ensure_ascii=False)
NASTY_LINES = "first\nsecond\r\n[STREAM]\n;comment\n#x=1\n\\\n{}"


@pytest.mark.parametrize("has_sound", [False, True])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".webm", ".mkv"])
def test_tags_come_back(suffix: str, has_sound: bool, tmp_path: Path) -> None:
    tags = {"prompt": NASTY, "workflow": NASTY_LINES}
    sound = (torch.zeros(2, 4000), 8000) if has_sound else None

    path = save_video(SMALL, tmp_path / f"clip{suffix}", codec=None, audio=sound, metadata=tags)

    assert {name: probe(path).tags.get(name) for name in tags} == tags
    av = pytest.importorskip("av")
    with av.open(str(path)) as file:  # as ComfyUI reads them
        found = {name.lower(): text for name, text in file.metadata.items()}
    assert {name: found.get(name) for name in tags} == tags


@pytest.mark.parametrize("num_frames", [1, 4])
@pytest.mark.parametrize("width", [47, 48])
def test_webp_holds_tags_and_stays_the_same_pictures(num_frames: int, width: int, tmp_path: Path) -> None:
    tags = {"workflow": NASTY_LINES, "prompt": NASTY, "x": ""}
    frames = SMALL[:num_frames, :, :width]

    plain = save_video(frames, tmp_path / "plain.webp")
    path = save_video(frames, tmp_path / "clip.webp", metadata=tags)

    assert probe(path).tags == tags
    with Image.open(path) as image, Image.open(plain) as wanted:
        assert (image.size, image.n_frames) == (wanted.size, num_frames)  # type: ignore[attr-defined]  # of webp
        assert image.tobytes() == wanted.tobytes()
    assert int.from_bytes(path.read_bytes()[4:8], "little") == path.stat().st_size - 8
    assert path.stat().st_size % 2 == 0


@pytest.mark.parametrize("suffix", [".mp4", ".webp", ".webm"])
def test_graphs_longer_than_a_command_line_come_back(suffix: str, tmp_path: Path) -> None:
    tags = {"workflow": json.dumps({"nodes": ["node = 1"] * 100_000})}

    assert probe(save_video(SMALL, tmp_path / f"clip{suffix}", metadata=tags)).tags["workflow"] == tags["workflow"]


@pytest.mark.parametrize("tags", [{"": "x"}, {"a": "\0"}, {"a": "x\\"}])
def test_tags_that_cannot_be_stored_are_refused(tags: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metadata"):
        save_video(SMALL, tmp_path / "clip.mp4", metadata=tags)


@pytest.mark.parametrize("tags", [{"a:b": "x"}, dict.fromkeys("abcdefghi", "x")])
def test_tags_that_webp_cannot_store_are_refused(tags: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 8 tags"):
        save_video(SMALL, tmp_path / "clip.webp", metadata=tags)


def test_a_poster_is_the_frame_with_its_tags(tmp_path: Path) -> None:
    tags = {"workflow": NASTY, "prompt": "ascii"}
    eight_bit = (SMALL[0] * 255).to(torch.uint8)

    path = save_poster(eight_bit / 255, tmp_path / "clip.png", tags)

    with Image.open(path) as picture:
        assert picture.tobytes() == eight_bit.numpy().tobytes()
        assert picture.text == tags  # type: ignore[attr-defined]  # of png
    assert [file.name for file in tmp_path.iterdir()] == ["clip.png"]
    with pytest.raises(VideoError, match="absent does not exist"):
        save_poster(SMALL[0], tmp_path / "absent" / "clip.png")
