"""Writing and reading video files with the ffmpeg of imageio-ffmpeg."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from exvideo_core.errors import VideoError
from exvideo_core.video import check_target, contact_sheet, load_frames, probe, read_video, save_video
from exvideo_core.video.codecs import CODECS, CONTAINERS
from exvideo_core.video.ffmpeg import encoders, executable

PAIRS = [(suffix, codec) for suffix, container in CONTAINERS.items() for codec in container.codecs]
SMALL = torch.rand(4, 32, 48, 3, generator=torch.Generator().manual_seed(0))


def moving_waves(num_frames: int, height: int = 64, width: int = 96) -> Tensor:
    """A smooth clip [T, H, W, 3] in which no two frames are alike."""
    t, y, x = torch.meshgrid(
        torch.arange(num_frames) / 12, torch.arange(height) / 20, torch.arange(width) / 20, indexing="ij"
    )
    return torch.stack([0.5 + 0.3 * torch.sin(x + t), 0.5 + 0.3 * torch.cos(y - t), 0.5 + 0.3 * torch.sin(x + y)], -1)


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


def exploding(frames: Tensor, at: int) -> Iterator[Tensor]:
    yield from frames[:at]
    raise KeyError("from the decoder")


@pytest.mark.parametrize(("suffix", "codec"), PAIRS)
def test_a_clip_comes_back(suffix: str, codec: str, tmp_path: Path) -> None:
    if not set(CODECS[codec].encoders) & encoders():
        pytest.skip(f"this ffmpeg has no {codec}")
    frames = moving_waves(128)

    path = save_video(frames, tmp_path / f"clip{suffix}", 30, codec=codec)

    info = probe(path)
    assert (info.width, info.height, info.num_frames) == (96, 64, 128)
    assert info.codec == {"h265": "hevc"}.get(codec, codec)
    assert abs(info.fps - 30) < 0.05 if codec in ("gif", "webp") else info.fps == 30
    assert psnr(load_frames(path), frames) > (25 if codec == "gif" else 38)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("fps", [Fraction(30000, 1001), Fraction(2997, 100), 12.34, 8, Fraction(25, 3)])
@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_frame_rates_are_exact(suffix: str, fps: float | Fraction, tmp_path: Path) -> None:
    assert probe(save_video(SMALL, tmp_path / f"clip{suffix}", fps)).fps == Fraction(fps).limit_denominator(2000)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_apple_finds_h265(suffix: str, tmp_path: Path) -> None:
    sound = (torch.zeros(1, 8000), 8000)
    path = save_video(SMALL, tmp_path / f"clip{suffix}", codec="h265", audio=sound)
    assert b"hvc1" in path.read_bytes()


def test_the_index_of_an_mp4_comes_first(tmp_path: Path) -> None:
    content = save_video(SMALL, tmp_path / "clip.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(("suffix", "codec"), PAIRS)
def test_odd_sizes_are_kept_or_grow_by_a_copied_pixel(suffix: str, codec: str, tmp_path: Path) -> None:
    frames = moving_waves(2, height=33, width=47)

    result = load_frames(save_video(frames, tmp_path / f"clip{suffix}", codec=codec))

    wider, higher = CODECS[codec].even_size
    assert result.shape == (2, 33 + higher, 47 + wider, 3)
    assert psnr(result[:, :33, :47], frames) > 24
    assert (result[:, :, -1] - result[:, :, -2]).abs().mean() < 0.05


def test_every_kind_of_frames_makes_the_same_file(tmp_path: Path) -> None:
    eight_bit = (SMALL * 255).to(torch.uint8)
    kinds = [eight_bit, eight_bit.numpy(), list(eight_bit / 255), (frame.numpy() for frame in eight_bit / 255)]

    files = [save_video(frames, tmp_path / f"{i}.mp4").read_bytes() for i, frames in enumerate(kinds)]

    assert len(set(files)) == 1


def test_frames_of_pil_are_taken_without_a_warning(tmp_path: Path) -> None:
    picture = np.asarray(Image.new("RGB", (48, 32), "red"))
    assert probe(save_video([picture] * 2, tmp_path / "clip.mp4")).num_frames == 2


def test_frames_are_taken_one_by_one(tmp_path: Path) -> None:
    calls: list[tuple[str, int]] = []

    def decode() -> Iterator[Tensor]:
        for i, frame in enumerate(SMALL):
            calls.append(("decoded", i + 1))
            yield frame

    save_video(decode(), tmp_path / "clip.mp4", progress=lambda done, total: calls.append(("written", done)))

    assert calls == [(what, i) for i in range(1, 5) for what in ("decoded", "written")]


def test_progress_knows_the_total_of_a_tensor(tmp_path: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    save_video(SMALL, tmp_path / "clip.mp4", progress=lambda *call: calls.append(call))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_better_quality_is_closer_and_larger(tmp_path: Path) -> None:
    frames = moving_waves(8)
    paths = [save_video(frames, tmp_path / f"{word}.mp4", quality=word) for word in ("low", "medium", "high", "best")]
    closeness = [psnr(load_frames(path), frames) for path in paths]
    sizes = [path.stat().st_size for path in paths]
    assert closeness == sorted(closeness)
    assert sizes == sorted(sizes)
    assert save_video(frames, tmp_path / "n.mp4", quality=23).read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
@pytest.mark.parametrize("at", [0, 3])
def test_an_exception_of_the_frames_passes_and_leaves_nothing(suffix: str, at: int, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="from the decoder"):
        save_video(exploding(SMALL, at), tmp_path / f"clip{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="names that Windows does not allow")
@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_names_are_never_patterns_or_protocols(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "100%03d é"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in (f"http:-%d 'a'{suffix}", f"-y{suffix}"):
        assert probe(save_video(SMALL, name)).num_frames == 4
        contact_sheet(name, f"{name}.png")
    assert len(list(folder.iterdir())) == 4


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with pytest.raises(KeyError):
        save_video(exploding(SMALL, 2), path)
    assert path.read_bytes() == b"old"
    save_video(SMALL, path)
    assert probe(path).num_frames == 4


class RecordedPopen(subprocess.Popen):  # type: ignore[type-arg]  # it takes bytes and text here
    """Remembers the processes that were started."""

    started: list["RecordedPopen"] = []  # noqa: RUF012 - emptied by the test

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[call-overload]  # passed on as they are
        self.started.append(self)


@pytest.mark.parametrize("at", [5, 19])
def test_a_killed_ffmpeg_is_an_error_and_leaves_nothing(at: int, tmp_path: Path, monkeypatch) -> None:
    encoders()  # so that only the writer is started below
    monkeypatch.setattr(subprocess, "Popen", RecordedPopen)
    RecordedPopen.started.clear()

    def frames() -> Iterator[Tensor]:
        for i in range(20):
            yield torch.rand(128, 128, 3)
            if i == at:  # 19: after the last write, before the end
                RecordedPopen.started[-1].kill()

    with pytest.raises(VideoError, match=r"ffmpeg failed while writing clip.mp4 \(h264\)"):
        save_video(frames(), tmp_path / "clip.mp4")

    assert list(tmp_path.iterdir()) == []
    assert all(process.returncode is not None for process in RecordedPopen.started)


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal to itself")
def test_ctrl_c_leaves_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    # background jobs of a shell ignore the signal
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, usual))

    def frames() -> Iterator[Tensor]:
        yield from SMALL
        os.kill(os.getpid(), signal.SIGINT)
        yield from SMALL

    with pytest.raises(KeyboardInterrupt):
        save_video(frames(), tmp_path / "clip.mp4")
    assert list(tmp_path.iterdir()) == []


def fake_ffmpeg(folder: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = folder / "ffmpeg.sh"
    script.write_text(f'#!/bin/sh\n{line}\nexec "{executable()}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(script))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell script")
def test_a_talkative_ffmpeg_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ffmpeg(tmp_path, "head -c 1000000 /dev/zero | tr '\\0' '\\n' >&2", monkeypatch)
    assert len(load_frames(save_video(SMALL, tmp_path / "clip.mp4"))) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell script")
def test_an_absent_encoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ffmpeg(tmp_path, 'case "$*" in *-encoders*) echo " V....D libx264  H.264"; exit;; esac', monkeypatch)
    with pytest.raises(VideoError, match="cannot write av1: it lacks libsvtav1 and libaom-av1"):
        check_target(tmp_path / "clip.mp4", "av1")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell script")
def test_the_last_words_of_ffmpeg_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ffmpeg(tmp_path, 'case "$*" in *rawvideo*) echo "No space left on device" >&2; exit 1;; esac', monkeypatch)
    (tmp_path / "out").mkdir()
    with pytest.raises(VideoError, match="No space left on device"):
        save_video(SMALL, tmp_path / "out" / "clip.mp4")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("clip.avi", {}, "Valid endings: .mp4, .mov, .mkv, .webm, .gif, .webp"),
        ("clip.webm", {"codec": "h264"}, r"ends in \.mp4 or \.mov or \.mkv, or for \.webm one of: vp9, av1"),
        ("clip.mp4", {"codec": "divx"}, "Valid codecs: h264, h265, vp9, av1, prores, gif, webp"),
        ("clip.mp4", {"quality": "great"}, r"low, medium, high, best, or a number from 0 to 51 \(crf\)"),
        ("clip.mp4", {"quality": 52}, "from 0 to 51"),
        ("clip.mp4", {"fps": 0}, "more than 0"),
        ("clip.mp4", {"fps": float("nan")}, "more than 0"),
        ("clip.gif", {"fps": 60}, "at most 50"),
        ("clip.gif", {"audio": "a.wav"}, "no sound"),
        ("clip.gif", {"metadata": {"prompt": "{}"}}, "cannot hold a workflow"),
        ("clip.mp4", {"bit_depth": 10}, "hardly any browser.*Choose h265, vp9, av1, prores, or 8 bits"),
        ("clip.mp4", {"bit_depth": 12}, "choose 8 or 10"),
        ("clip.mp4", {"audio": "absent.wav"}, r"absent\.wav does not exist"),
        ("clip.mp4", {"audio": __file__}, "looking for sound"),
        ("absent/clip.mp4", {}, "absent does not exist"),
        ("folder.mp4", {}, "is a folder"),
    ],
)
def test_refusals_come_before_the_first_frame(
    name: str, options: dict[str, object], message: str, tmp_path: Path
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    frames = iter(SMALL)
    with pytest.raises(VideoError, match=message):
        save_video(frames, tmp_path / name, **options)  # type: ignore[arg-type]  # on purpose
    assert len(list(frames)) == 4
    assert [file.name for file in tmp_path.iterdir()] == ["folder.mp4"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that refuses even root")
def test_an_unwritable_folder_is_refused_in_time() -> None:
    frames = iter(SMALL)
    with pytest.raises(VideoError, match=r"cannot write to /proc/clip\.mp4: "):
        save_video(frames, "/proc/clip.mp4")
    assert len(list(frames)) == 4


@pytest.mark.parametrize("folder", ["absent", "file"])
def test_a_target_can_be_checked_hours_before(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    check_target(tmp_path / "clip.mp4")
    with pytest.raises(VideoError, match=f"{folder} does not exist"):
        check_target(tmp_path / folder / "clip.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        ([], VideoError, "no frames"),
        ([SMALL[0], SMALL[1, :16]], VideoError, "frame 1 has 48x16 pixels, frame 0 has 48x32"),
        ([SMALL[0], SMALL[1] * torch.nan], VideoError, "frame 1 has NaN"),
        (SMALL[0], ValueError, r"frame 0 has the shape \[48, 3\]"),
        ([SMALL[0].double().to(torch.int32)], ValueError, "int32"),
        (["frame.png"], TypeError, "str"),
    ],
)
def test_bad_frames_are_named(frames: object, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        save_video(frames, tmp_path / "clip.mp4")  # type: ignore[arg-type]  # on purpose
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seconds", [0.5, 9.0])
@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "aac"), (".mov", "aac"), (".webm", "opus"), (".mkv", "opus")])
def test_sound_is_cut_to_the_clip(suffix: str, codec: str, seconds: float, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    rate, frames = 48000, SMALL.repeat(16, 1, 1, 1)  # 64 frames
    tone = 0.5 * torch.sin(torch.arange(int(seconds * rate)) / 20).expand(2, -1)

    path = save_video(frames, tmp_path / f"clip{suffix}", 32, audio=(tone, rate), codec=None)

    info = probe(path)
    assert (info.num_frames, info.fps, info.audio_codec) == (64, 32, codec)
    with av.open(str(path)) as file:
        sound = np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)
    heard = np.flatnonzero(np.abs(sound[0]) > 0.2)[-1] / rate
    assert heard == pytest.approx(min(2, seconds), abs=0.03)  # one block of AAC is 0.021 s
    assert np.abs(sound).max() == pytest.approx(0.5, abs=0.1)


def test_sound_from_a_file(tmp_path: Path) -> None:
    first = save_video(SMALL, tmp_path / "first.mp4", audio=(torch.rand(1, 44100) - 0.5, 44100))
    second = save_video(iter(SMALL), tmp_path / "second.webm", audio=first)
    assert probe(second).audio_codec == "opus"


def test_reading_may_stop_early(tmp_path: Path) -> None:
    frames = read_video(save_video(moving_waves(64), tmp_path / "clip.mp4"))
    assert next(frames).shape == (64, 96, 3)
    frames.close()  # type: ignore[attr-defined]  # a generator; warnings are errors, so a process left would be seen
    assert load_frames(tmp_path / "clip.mp4", max_frames=3).shape == (3, 64, 96, 3)


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_what_is_no_video_is_refused(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="does not exist"):
        read_video(tmp_path / f"absent{suffix}")
    (tmp_path / f"text{suffix}").write_text("no video " * 100)
    with pytest.raises(VideoError, match=f"text{suffix}"):
        load_frames(tmp_path / f"text{suffix}")


def test_a_truncated_video_is_refused(tmp_path: Path) -> None:
    path = save_video(SMALL.repeat(8, 1, 1, 1), tmp_path / "clip.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"reading clip\.mp4"):
        load_frames(path)


@pytest.mark.parametrize(("num_frames", "cells"), [(128, (8, 4)), (5, (5, 1)), (1, (1, 1))])
def test_a_contact_sheet_shows_first_and_last(num_frames: int, cells: tuple[int, int], tmp_path: Path) -> None:
    frames = torch.full((num_frames, 64, 64, 3), 0.5)
    frames[0, 32:] = torch.tensor([1.0, 0, 0])
    frames[-1, 32:] = torch.tensor([0, 0, 1.0])
    video = save_video(frames, tmp_path / "clip.mp4")

    sheet = np.asarray(Image.open(contact_sheet(video, tmp_path / "sheet.png"))).astype(int)

    height, width = sheet.shape[0] // cells[1], sheet.shape[1] // cells[0]
    assert width == pytest.approx(260, abs=4)
    last = sheet[-height // 4, -width // 2]
    assert abs(last - [0, 0, 255]).max() < 12
    if num_frames > 1:
        assert abs(sheet[height * 3 // 4, width // 2] - [255, 0, 0]).max() < 12
    assert abs(sheet[:height, :width] - 255).min() == 0  # the white number
