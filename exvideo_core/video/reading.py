"""Reading video files frame by frame.

A process of ffmpeg decodes, so that a damaged file cannot take this one down. `training.data.videos`, which needs exact
seeks, reads by PyAV under the same rules: upright, the same formats and limits, rates as averages, conversion to RGB.

Shapes: T frames, H and W in pixels, the last axis red, green and blue.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageSequence
from torch import Tensor

from ..errors import VideoError
from . import ffmpeg, webp_tags
from .pictures import check_size, opened
from .tags_and_sound import read_tags

_MOST_VALUES = 2**31  # of a clip in memory at once: 8 GiB in float32, 680 frames of 1024x1024


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Facts about a video file, from `probe`."""

    width: int  # in pixels, upright
    height: int
    fps: Fraction  # frames per second; the average where they are not evenly spaced
    num_frames: int  # counted, as `read_video` yields them
    codec: str  # ffmpeg's name: h264, hevc, vp9, av1, prores, gif, webp
    audio_codec: str | None  # None without sound
    tags: dict[str, str]  # names in lower case


def read_video(path: str | Path) -> Iterator[NDArray[np.uint8]]:
    """Iterate over the frames of a video, upright, as uint8 [H, W, 3].

    Leaving the iteration early ends the decoder. A damaged file yields the frames before the damage.
    VideoError at once if there is no such file; while iterating if it is damaged or not a video.
    """
    path = Path(path)
    if not path.is_file():
        raise VideoError(f"the video {path} does not exist.")
    if _is_animation(path):
        return (frame_HWC for frame_HWC, _ in _animation(path))
    return _ffmpeg_frames(path)


def load_frames(path: str | Path, max_frames: int | None = None) -> Tensor:
    """Read a video, or its first `max_frames`, as float32 [T, H, W, 3] in [0, 1].

    VideoError as in `read_video`, or if it does not fit into memory, or its frames are not all of one size.
    """
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"{max_frames=} must be at least 1")
    frames: list[Tensor] = []
    for frame_HWC in islice(read_video(path), max_frames):
        frames.append(torch.from_numpy(frame_HWC))
        if len(frames) * frame_HWC.size > _MOST_VALUES:
            height, width = frame_HWC.shape[:2]
            raise VideoError(
                f"{Path(path).name} does not fit into memory: at most {len(frames) - 1} frames of {width}x{height} are "
                f"read at once. Cut it into parts, or make it smaller."
            )
        if frames[0].shape != frames[-1].shape:
            raise VideoError(f"{Path(path).name} changes its size at frame {len(frames) - 1}: convert it to mp4.")
    video_THWC = torch.empty(len(frames), *frames[0].shape)
    for i, frame in enumerate(frames):
        video_THWC[i] = frame  # torch.stack would need twice the memory
    return video_THWC.div_(255)


def probe(path: str | Path) -> VideoInfo:
    """Describe a video, decoding it once to count the frames. VideoError as in `read_video`."""
    path = Path(path)
    num_frames, height, width = 0, 0, 0
    for frame_HWC in read_video(path):
        num_frames += 1
        height, width = frame_HWC.shape[:2]
    if _is_animation(path):
        milliseconds = [duration for _, duration in _animation(path)]
        fps, codec, audio_codec = Fraction(1000 * num_frames, max(sum(milliseconds), 1)), path.suffix.lower()[1:], None
        tags = webp_tags.read_tags(path) if codec == "webp" else {}
    else:
        fps, codec, audio_codec = _stream_facts(path)
        tags = read_tags(path)
    return VideoInfo(
        width=width, height=height, fps=fps, num_frames=num_frames, codec=codec, audio_codec=audio_codec, tags=tags
    )


def _ffmpeg_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    arguments = [
        *("-v", "error", "-xerror", *ffmpeg.input_arguments(path), "-map", "0:v:0", "-fps_mode", "passthrough"),
        *("-vf", f"scale=flags={'+'.join(ffmpeg.SCALE_FLAGS)}", "-pix_fmt", "rgb24"),
        *("-c:v", "ppm", "-f", "image2pipe", "pipe:1"),  # each picture has its size in front
    ]
    num_frames = 0
    with ffmpeg.FFmpeg(arguments, f"reading {path.name}") as process:
        while process.output.readline() == b"P6\n":
            width, height = (int(side) for side in process.output.readline().split())
            process.output.readline()  # the largest value, 255
            picture = bytearray(process.output.read(width * height * 3))  # writable, for torch
            if len(picture) == width * height * 3:
                num_frames += 1
                yield np.frombuffer(picture, np.uint8).reshape(height, width, 3)
        process.finish()
    if num_frames == 0:
        raise VideoError(f"{path.name} has no frames that ffmpeg can decode.")


def _stream_facts(path: Path) -> tuple[Fraction, str, str | None]:
    """Frame rate, video codec and audio codec, parsed from ffmpeg's messages about the first frame."""
    arguments = [
        *("-v", "info", *ffmpeg.input_arguments(path), "-map", "0:v:0", "-frames:v", "1"),
        *("-vf", "showinfo=checksum=0", "-f", "null", "-"),
    ]
    with ffmpeg.FFmpeg(arguments, f"reading {path.name}", kept_lines=None) as process:
        text = process.finish()
    rate = re.search(r"config in time_base: \S+ frame_rate: (\d+)/(\d+)", text)
    codec = re.search(r"Stream #0.*? Video: (\w+)", text)
    sound = re.search(r"Stream #0.*? Audio: (\w+)", text)
    if rate is None or codec is None or int(rate[2]) == 0:
        raise VideoError(f"the frame rate of {path.name} is not known. Convert it to mp4.")
    return Fraction(int(rate[1]), int(rate[2])), codec[1], sound[1] if sound else None


def _is_animation(path: Path) -> bool:
    """Whether PIL reads it: few versions of ffmpeg read animated webp, and none reports a gif's mean rate."""
    return path.suffix.lower() in (".gif", ".webp")


def _animation(path: Path) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Frames, and the milliseconds each is shown."""
    with opened(path, f"a {path.suffix[1:]} file") as image:
        for picture in ImageSequence.Iterator(image):
            check_size(picture, path)
            frame_HWC = np.array(picture.convert("RGB"))
            yield frame_HWC, int(picture.info.get("duration", 0))  # known after the picture is decoded
