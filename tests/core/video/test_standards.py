"""What other programs find in the files: the rate, each frame's time, the colours, the bits."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from exvideo_core.video import read_video, save_video
from exvideo_core.video.codecs import CODECS, CONTAINERS, frame_rate
from exvideo_core.video.frames import to_uint16

PAIRS = [(suffix, codec) for suffix, container in CONTAINERS.items() for codec in container.codecs]
VIDEOS = [pair for pair in PAIRS if CODECS[pair[1]].is_yuv]
SMALL = torch.rand(4, 32, 48, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("fps", "exact"),
    [
        (23.98, Fraction(24000, 1001)),
        (23.976, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (119.88, Fraction(120000, 1001)),
        (29.9, Fraction(299, 10)),
        (30.0, 30),
        (0.5, Fraction(1, 2)),
    ],
)
def test_television_rates_written_short_are_meant_exactly(fps: float, exact: Fraction) -> None:
    assert frame_rate(fps, "h264") == exact


@pytest.mark.parametrize("fps", [29.97, 23.98, 0.5])
@pytest.mark.parametrize(("suffix", "unit"), [(".mp4", 0), (".mov", 0), (".mkv", 1000), (".webm", 1000)])
@pytest.mark.parametrize("has_sound", [False, True])
def test_every_frame_has_its_exact_time(suffix: str, unit: int, fps: float, has_sound: bool, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    rate, frames = frame_rate(fps, "h264"), SMALL.repeat(5, 1, 1, 1)
    sound = (torch.zeros(1, 8000), 8000) if has_sound else None
    off = Fraction(1, 2 * unit) if unit else 0  # mkv and webm count in 1/1000 s

    path = save_video(frames, tmp_path / f"clip{suffix}", fps, quality="low", audio=sound)

    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        times = [frame.pts * stream.time_base for frame in file.decode(video=0)]
        assert stream.average_rate == rate
        assert file.duration / 1e6 == pytest.approx(float(20 / rate), abs=0.01 if has_sound else 0.001)
    assert max(abs(time - i / rate) for i, time in enumerate(times)) <= off
    assert len(times) == 20


def test_gif_and_webp_are_as_long_as_the_frames(tmp_path: Path) -> None:
    for suffix, unit in ((".gif", 10), (".webp", 1)):  # milliseconds
        with Image.open(save_video(SMALL.repeat(8, 1, 1, 1), tmp_path / f"clip{suffix}", 30)) as image:
            shown = [picture.info["duration"] for picture in ImageSequence.Iterator(image) if picture.load() or True]
            assert image.info["loop"] == 0  # for ever
        assert set(shown) == ({30, 40} if suffix == ".gif" else {33, 34})
        assert sum(shown) == pytest.approx(1000 * 32 / 30, abs=unit)


@pytest.mark.parametrize(("suffix", "codec"), [pair for pair in PAIRS if CODECS[pair[1]].is_yuv])
def test_colours_are_declared_as_bt709(suffix: str, codec: str, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(save_video(SMALL, tmp_path / f"clip{suffix}", codec=codec))) as file:
        stream = file.streams.video[0].codec_context
        assert (stream.colorspace, stream.color_primaries, stream.color_trc, stream.color_range) == (1, 1, 1, 1)


@pytest.mark.parametrize(("suffix", "codec"), PAIRS)
def test_colours_are_right_for_ffmpeg_and_comfyui(suffix: str, codec: str, tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (0, 0, 0), (255, 255, 255), (200, 60, 20)]
    picture_HWC = np.repeat(np.array(colours, np.uint8)[None], 32, 0).repeat(32, 1)

    path = save_video([picture_HWC] * 2, tmp_path / f"clip{suffix}", codec=codec, quality="best")

    middles = next(iter(read_video(path)))[16, 16::32].astype(int)
    assert abs(middles - np.array(colours)).max() <= 2
    if CODECS[codec].is_yuv:
        av = pytest.importorskip("av")
        with av.open(str(path)) as file:
            planes = next(file.decode(video=0)).to_ndarray(format="gbrpf32le")  # as its LoadVideo does
        assert abs(planes[16, 16::32] * 255 - np.array(colours)).max() <= 3


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "h265"), (".webm", "vp9"), (".mp4", "av1"), (".mov", "prores")])
def test_ten_bits_are_more_than_256_levels(suffix: str, codec: str, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    ramp = torch.linspace(0.1, 0.9, 1280).reshape(1, 1, -1, 1).expand(1, 32, -1, 3)

    path = save_video(ramp, tmp_path / f"clip{suffix}", codec=codec, quality="best", bit_depth=10)

    with av.open(str(path)) as file:
        frame = next(file.decode(video=0))
        levels = frame.to_ndarray(format="gbrpf32le")[16, :, 1]
    assert frame.format.components[0].bits == 10
    assert len(np.unique(levels)) > 500  # of 701 in this range; 8 bits have 176
    assert abs(levels - ramp[0, 16, :, 1].numpy()).max() < 2 / 1023


def test_eight_bits_are_the_choice_without_a_wish(tmp_path: Path) -> None:
    same = [save_video(SMALL, tmp_path / f"{bits}.mp4", codec="av1", bit_depth=bits).read_bytes() for bits in (None, 8)]
    assert same[0] == same[1]


def test_16_bit_values_of_8_bit_ones_are_multiples() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert to_uint16(levels).tolist() == to_uint16(levels / 255).tolist() == [257 * i for i in range(256)]
    assert to_uint16(torch.tensor([-1.0, 2.0, 0.5])).tolist() == [0, 65535, 32768]
