"""Checking whole videos for damage, and reading clips from anywhere in them, exact to the frame.

Decoding starts at the keyframe before a clip and ends with its last frame. Which frame is which is known from the time
stamps that `examine` noted in a complete decode. Pixels are taken as square.

Shapes: T frames, H and W in pixels, the last axis red, green and blue.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...errors import ExVideoError, VideoError
from ...files import regular_size
from ...video import ffmpeg
from ...video.frames import cover_crop

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_SLOWEST = 0.99  # of the asked frame rate: 29.97 may stand for 30, but 25 would show every fifth frame twice
_NEAREST = 0.499  # of a frame's duration, by which it may come late; less than half, so that ties go to the earlier one
_EARLY_END = 1.0  # seconds, or 5 % of the video, that sound may outlast the pictures

_CONVERSION = sum(ffmpeg.SCALE_FLAGS.values())  # as in video/reading.py


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """Size and time stamps of a video, found by `examine`."""

    width: int  # in pixels, upright
    height: int
    pts: tuple[int, ...]  # rising time stamps of all frames, in units of time_base; the first need not be 0
    time_base: Fraction  # seconds

    @property
    def num_frames(self) -> int:
        """Frames in the file, all of them decodable."""
        return len(self.pts)

    @property
    def fps(self) -> float:
        """Frames per second, the average where they are not evenly spaced; 0 for a single frame."""
        if len(self.pts) < 2:
            return 0.0
        return float((len(self.pts) - 1) / ((self.pts[-1] - self.pts[0]) * self.time_base))


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which frames of a video make a clip, counted from the clip's first one."""

    num_frames: int  # T
    fps: float | None = None  # frames at this rate, by their time stamps; None: every stride-th frame
    stride: int = 1


def last_start(facts: VideoFacts, sampling: Sampling) -> int:
    """The last frame that a clip can begin with; -1 if the video has too few frames, or too few per second."""
    if sampling.fps is None:
        return max(-1, facts.num_frames - 1 - (sampling.num_frames - 1) * sampling.stride)
    if facts.fps < _SLOWEST * sampling.fps:
        return -1
    duration = (sampling.num_frames - 1) / sampling.fps
    return bisect_right(facts.pts, facts.pts[-1] + (_tolerance(facts) - duration) / facts.time_base) - 1


def shortcoming(facts: VideoFacts, sampling: Sampling) -> str | None:
    """Why no clip can be taken from a video, as the end of a sentence about it; None if one can."""
    if last_start(facts, sampling) >= 0:
        return None
    if sampling.fps is None:
        return f"has {facts.num_frames} frames; a clip needs {(sampling.num_frames - 1) * sampling.stride + 1}"
    if facts.fps < _SLOWEST * sampling.fps:
        return f"has {facts.fps:.4g} frames per second; clips are to have {sampling.fps:g}"
    duration = facts.num_frames / facts.fps
    return f"has {duration:.3g} seconds; a clip needs {sampling.num_frames / sampling.fps:.3g}"


def clip_fps(facts: VideoFacts, sampling: Sampling) -> float:
    """Frames per second of the clips."""
    return sampling.fps or facts.fps / sampling.stride


def frame_numbers(facts: VideoFacts, start: int, sampling: Sampling) -> list[int]:
    """The frames of the clip that begins with frame `start`.

    By time stamps, the k-th is the one on the screen k / fps seconds after the first; a frame that comes up to half
    a frame late, by the file's rounding, counts as in time. Only a video of uneven rate can repeat one.
    """
    if not 0 <= start <= last_start(facts, sampling):
        raise ValueError(f"{start=} must be from 0 to {last_start(facts, sampling)}")
    if sampling.fps is None:
        return list(range(start, start + sampling.num_frames * sampling.stride, sampling.stride))
    late = _tolerance(facts)
    times = (k / sampling.fps + late for k in range(sampling.num_frames))
    return [bisect_right(facts.pts, facts.pts[start] + time / facts.time_base) - 1 for time in times]


def _tolerance(facts: VideoFacts) -> float:
    return _NEAREST / facts.fps  # in seconds


def examine(path: Path) -> VideoFacts:
    """Decode a whole video once, so that damage anywhere in it is found, as far as the format shows it.

    VideoError if it is missing, no video, cut short or damaged, or its frames carry no rising time stamps.
    """
    pts: list[int] = []
    promised: set[int] = set()
    width, height = 0, 0
    _pyav()
    _check_structure(path)
    with _opened(path) as (container, stream):
        for frame in _decoded(path, container.demux(stream), promised):
            if frame.pts is None or (pts and frame.pts <= pts[-1]):
                raise VideoError(f"{path.name} has no rising time stamps at frame {len(pts)}: convert it to mp4.")
            width, height = (width, height) if pts else _upright_size(frame)
            pts.append(frame.pts)
        if not pts:
            raise VideoError(f"{path.name} has no frames that can be decoded.")
        time_base = Fraction(stream.time_base or 1)
        _check_end(path, container, stream, float((pts[-1] + 1) * time_base))
    # frames before the first one shown may be missing: they refer to a part that was cut off
    if lost := {time for time in promised if time > pts[0]}.difference(pts):
        raise VideoError(f"{path.name} is damaged: {len(lost)} of its {len(pts) + len(lost)} frames cannot be decoded.")
    return VideoFacts(width=width, height=height, pts=tuple(pts), time_base=time_base)


def read_clip(path: Path, facts: VideoFacts, start: int, sampling: Sampling, width: int, height: int) -> Tensor:
    """The clip from frame `start` on, every frame resized to cover width x height and cut around its centre.

    Returns:
        uint8 [T, H, W, 3].

    Raises:
        VideoError: the file is missing or damaged, or is no longer the one that was examined.
    """
    numbers = frame_numbers(facts, start, sampling)
    try:
        pictures = _pictures(path, facts, numbers, (width, height), seek=True)
    except VideoError:
        # Some files cannot be entered in their middle (open groups of pictures, gif, no list of keyframes).
        # From the beginning they can be read; damage shows there too.
        pictures = _pictures(path, facts, numbers, (width, height), seek=False)
    return torch.from_numpy(np.stack([pictures[number] for number in numbers]))


def _pictures(
    path: Path, facts: VideoFacts, numbers: Sequence[int], size: tuple[int, int], *, seek: bool
) -> dict[int, NDArray[np.uint8]]:
    """Finished pictures by their frame numbers."""
    number, last = numbers[0], numbers[-1]
    pictures: dict[int, NDArray[np.uint8]] = {}
    with _opened(path) as (container, stream):
        if seek:
            container.seek(facts.pts[number], stream=stream)  # to the keyframe before it
        for frame in _decoded(path, container.demux(stream), set()):
            if not pictures and frame.pts is not None and frame.pts < facts.pts[number]:
                continue  # between the keyframe and the clip
            if frame.pts != facts.pts[number]:
                break
            if number in numbers:
                pictures[number] = _fitted(frame, size)
            if number == last:
                return pictures
            number += 1
    raise VideoError(
        f"{path.name} has changed since it was examined, or the disk fails: frame {number} is not where it was. "
        "Start again, so that it is examined again."
    )


def _check_structure(path: Path) -> None:
    """In ffmpeg's own process first: PyAV has no limit for what a damaged header asks for, and shares our memory."""
    try:
        regular_size(path)
    except OSError as error:
        raise VideoError(f"{path.name} cannot be decoded: {error.strerror}.") from error
    ffmpeg.executable()  # that it is missing is not the video's fault
    try:
        ffmpeg.check_video(path)
    except VideoError as error:
        said = re.search(r"Error opening input: ([^;.]+)", str(error))
        raise VideoError(
            f"{path.name} cannot be decoded: {said[1] if said else 'its structure is damaged'}."
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    av = _pyav()
    try:
        # a "video" can be a playlist of web addresses or other files: nothing but plain videos is opened
        options = {"protocol_whitelist": "file", "format_whitelist": ffmpeg.FORMATS}
        # old cameras wrote tags in other encodings
        with av.open(str(path), options=options, metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context is None:
                raise VideoError(f"{path.name} has no video stream that can be decoded.")
            # damage is an error, and is not painted over
            stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(ffmpeg.MOST_PIXELS)}
            stream.thread_type = "SLICE"  # with threads for frames, ffmpeg loses the errors of the last ones
            yield container, stream
    except av.FFmpegError as error:
        raise VideoError(f"{path.name} cannot be decoded: {error.strerror}.") from error


def _decoded(path: Path, packets: Iterable[Packet[VideoStream]], promised: set[int]) -> Iterator[VideoFrame]:
    """Frames; the time stamps of the packets are added to `promised`."""
    for packet in packets:
        if packet.size and packet.pts is not None and not packet.is_discard:
            promised.add(packet.pts)
        if packet.is_corrupt:
            raise VideoError(f"{path.name} is cut short or damaged.")
        for frame in packet.decode():
            if frame.is_corrupt:
                raise VideoError(f"{path.name} has a damaged frame.")
            if frame.width < 1 or frame.height < 1:
                raise VideoError(f"{path.name} has frames of {frame.width}x{frame.height} pixels.")
            yield frame


def _check_end(path: Path, container: InputContainer, stream: VideoStream, end: float) -> None:
    """Matroska and AVI files that are cut short can end without an error, but their header says how long they were."""
    if "matroska" in container.format.name:
        expected = (container.duration or 0) / 1_000_000  # from microseconds
    elif container.format.name == "avi":
        expected = float(stream.frames * (stream.time_base or 0))
    else:
        return
    if expected - end > max(_EARLY_END, 0.05 * expected):
        raise VideoError(f"{path.name} is cut short: it ends after {end:.1f} of {expected:.1f} seconds.")


def _upright_size(frame: VideoFrame) -> tuple[int, int]:
    return (frame.height, frame.width) if _quarter_turns(frame) % 2 else (frame.width, frame.height)


def _quarter_turns(frame: VideoFrame) -> int:
    return round(frame.rotation / 90) % 4  # counterclockwise, as the file says that it is to be shown


def _fitted(frame: VideoFrame, size: tuple[int, int]) -> NDArray[np.uint8]:
    frame_HWC = frame.to_ndarray(format="rgb24", interpolation=_CONVERSION)
    upright_HWC = np.ascontiguousarray(np.rot90(frame_HWC, _quarter_turns(frame)))
    return np.array(cover_crop(Image.fromarray(upright_HWC), *size))


def _pyav() -> ModuleType:
    try:
        import av  # optional: only training needs it
    except ImportError as error:
        raise ExVideoError(
            "training reads videos with PyAV, which is not installed: pip install 'exvideo[train]'"
        ) from error
    return av
