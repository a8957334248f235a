"""Writing video files frame by frame, whole or not at all.

Files are made in a hidden folder beside the target, and moved when they are complete.

Shapes: T frames, H and W in pixels, the last axis red, green and blue.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import VideoError
from ..whole_file import check_writable, move, work_folder
from . import codecs, ffmpeg, webp_tags
from .codecs import CODECS, Container, Quality
from .frames import to_uint8, to_uint16
from .tags_and_sound import Audio, add_audio, check_audio, check_metadata, tag_input

Frame = Tensor | NDArray[Any]  # [H, W, 3]: float in [0, 1], or uint8
Pixels = NDArray[np.uint8] | NDArray[np.uint16]  # [H, W, 3]
WriteProgress = Callable[[int, int | None], None]  # frames written so far, and of how many if that is known


def save_video(  # noqa: PLR0913 - each is one choice about the file, by name
    frames: Tensor | Iterable[Frame],
    path: str | Path,
    fps: float | Fraction = 30,
    *,
    codec: str | None = None,
    quality: Quality | None = None,
    bit_depth: int | None = None,
    audio: Audio | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: WriteProgress | None = None,
) -> Path:
    """Write a clip to a file, which appears when it is complete and replaces one of the same name.

    Frames are consumed one by one, so a generator may decode meanwhile; arguments are checked before the first. Values
    are truncated to 8 bits as in `to_uint8`, or rounded to 16 for a codec that writes 10. In formats with subsampled
    chroma (all but gif and webp), an odd width or height is padded by one pixel, a copy of the last. gif times are
    rounded to 1/100 s; webp may store a run of equal frames as one that is shown as long.

    Args:
        frames: [T, H, W, 3], or an iterable of [H, W, 3]; float in [0, 1] (clipped) or uint8.
        path: mp4, mov, mkv, webm, gif or webp, in a folder that exists.
        fps: frames per second; fractions such as 30000/1001 are kept exactly.
        codec: h264, h265, vp9, av1, prores, gif, webp; None is the first that `codecs.CONTAINERS` has for the suffix.
        quality: low, medium, high (the default), best, or a number on the codec's own scale: crf for h264, h265,
            vp9 and av1, profile 0 to 3 for prores, colours for gif, 0 to 100 for webp.
        bit_depth: 8 or 10 bits per colour; None is 8, or 10 in prores. 10 shows smooth gradients without bands, and
            plays on fewer devices.
        audio: a file, or (waveform [channels, samples] in [-1, 1], samples per second); cut to the clip's length.
        metadata: tags; ComfyUI restores a graph from `prompt` and `workflow`, both JSON.
        progress: called after each frame; an exception from it stops the writing.

    Returns:
        The path.

    Raises:
        VideoError: the file cannot be written, or not like this. Exceptions of `frames` and `progress` pass unchanged.
    """
    job = _plan(Path(path), fps, codec, quality, bit_depth)
    check_metadata(metadata, job.container, job.path)
    check_audio(audio, job.container, job.path)
    source = _Source(frames, job, progress)
    with work_folder(job.path) as folder:
        finished = folder / f"finished{job.path.suffix.lower()}"
        tags = tag_input(metadata, folder) if metadata and job.codec != "webp" else []
        if job.codec == "gif":
            _write_gif(source, job, folder, finished)
        elif job.codec == "webp":
            _write_pictures(source, job, finished, [])
            if metadata:
                webp_tags.add_tags(finished, metadata)
        elif audio is None:
            _write_pictures(source, job, finished, tags)
        else:
            silent = finished.with_stem("silent")
            _write_pictures(source, job, silent, [])
            add_audio(silent, audio, source.num_frames / job.fps, job.container, tags, finished)
        move(finished, job.path)
    return job.path


def check_target(path: str | Path, codec: str | None = None, bit_depth: int | None = None) -> None:
    """Raise VideoError now if `save_video` could not write there: for a check before hours of work."""
    job = _plan(Path(path), 30, codec, None, bit_depth)
    check_writable(job.path)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Checked arguments of `save_video`."""

    path: Path
    fps: Fraction
    container: Container
    codec: str
    encoder: str
    quality: Quality | None
    bit_depth: int

    @property
    def subject(self) -> str:
        return f"writing {self.path.name} ({self.codec})"


def _plan(path: Path, fps: float | Fraction, codec: str | None, quality: Quality | None, bit_depth: int | None) -> _Job:
    container, name = codecs.choose(path, codec)
    CODECS[name].quality_number(quality)  # raises
    return _Job(
        path=path,
        fps=codecs.frame_rate(fps, name),
        container=container,
        codec=name,
        encoder=codecs.pick_encoder(name, ffmpeg.encoders()),
        quality=quality,
        bit_depth=codecs.choose_bit_depth(name, bit_depth),
    )


class _Source:
    """The frames as rgb24 or rgb48, counted, all of one size."""

    def __init__(self, frames: Tensor | Iterable[Frame], job: _Job, progress: WriteProgress | None) -> None:
        self.num_frames = 0  # so far
        self._frames = iter(frames)
        self._total = len(frames) if isinstance(frames, Sized) else None
        self._even_size = CODECS[job.codec].even_size
        self._is_deep = job.bit_depth > 8
        self._progress = progress

    def first(self) -> Pixels:
        """The first frame, which sets the clip's size; VideoError if there is none."""
        for frame in self._frames:
            return self._pixels(frame)
        raise VideoError("the clip has no frames, so there is nothing to write.")

    def feed(self, process: ffmpeg.FFmpeg, first_HWC: Pixels) -> None:
        """Write all frames to ffmpeg."""
        self._write(process, first_HWC)
        for frame in self._frames:
            frame_HWC = self._pixels(frame)
            if frame_HWC.shape != first_HWC.shape:
                raise VideoError(
                    f"frame {self.num_frames} has {_size(frame_HWC)} pixels, frame 0 has {_size(first_HWC)}. "
                    "All frames of a clip must have one size."
                )
            self._write(process, frame_HWC)

    def _write(self, process: ffmpeg.FFmpeg, frame_HWC: Pixels) -> None:
        process.write(frame_HWC.data.cast("B"))
        self.num_frames += 1
        if self._progress is not None:
            self._progress(self.num_frames, self._total)

    def _pixels(self, frame: Frame) -> Pixels:
        if isinstance(frame, np.ndarray):
            frame = torch.from_numpy(frame if frame.flags.writeable else frame.copy())  # PIL's arrays are read-only
        if not isinstance(frame, Tensor):
            raise TypeError(f"frame {self.num_frames} is {type(frame).__name__}, not a tensor or array")
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.numel() == 0:
            raise ValueError(f"frame {self.num_frames} has the shape {list(frame.shape)}, not [H, W, 3]")
        if frame.is_floating_point():
            if not bool(frame.isfinite().all()):
                raise VideoError(
                    f"frame {self.num_frames} has NaN or Inf, and would be black. "
                    "Run the model in bfloat16 or float32: float16 may have overflowed."
                )
        elif frame.dtype != torch.uint8:
            raise ValueError(f"frame {self.num_frames} is {frame.dtype}, not float in [0, 1] or uint8")
        if self._is_deep:
            frame = to_uint16(frame.detach())
        elif frame.dtype != torch.uint8:
            frame = to_uint8(frame.detach())
        frame_HWC: Pixels = frame.cpu().numpy()
        wider, higher = (side % 2 * even for side, even in zip(frame.shape[1::-1], self._even_size, strict=True))
        return np.ascontiguousarray(np.pad(frame_HWC, ((0, higher), (0, wider), (0, 0)), mode="edge"))


def _write_pictures(source: _Source, job: _Job, file: Path, tags: list[str]) -> None:
    arguments = [
        *tags,
        *("-map", "0:v", *(("-map_metadata", "1") if tags else ())),
        *CODECS[job.codec].arguments(job.encoder, job.quality, job.bit_depth),
        *job.container.options,
        *("-f", job.container.muxer, ffmpeg.file_argument(file)),
    ]
    _run_on(source, job, arguments)


def _write_gif(source: _Source, job: _Job, folder: Path, file: Path) -> None:
    """Write a gif with one palette for all frames, which wait in a lossless file, not in memory."""
    colours = int(CODECS["gif"].quality_number(job.quality))
    lossless, palette = folder / "lossless.avi", folder / "palette.png"
    arguments = [
        *("-map", "0:v", "-c:v", "ffv1", "-pix_fmt", "bgr0", "-f", "avi", ffmpeg.file_argument(lossless)),
        *("-map", "0:v", "-vf", f"palettegen=max_colors={colours}", "-update", "1", "-c:v", "png", "-f", "image2"),
        str(palette),
    ]
    _run_on(source, job, arguments)
    arguments = [
        *("-v", "error", "-i", ffmpeg.file_argument(lossless), "-i", str(palette)),
        *("-lavfi", "paletteuse=dither=bayer:bayer_scale=3", *job.container.options),
        *("-f", job.container.muxer, ffmpeg.file_argument(file)),
    ]
    ffmpeg.run(arguments, job.subject)


def _run_on(source: _Source, job: _Job, arguments: list[str]) -> None:
    """Run ffmpeg with the frames as input 0."""
    first_HWC = source.first()
    pixel_format = "rgb24" if first_HWC.dtype == np.uint8 else f"rgb48{sys.byteorder[0]}e"
    pixels = ["-v", "error", "-f", "rawvideo", "-pix_fmt", pixel_format, "-s", _size(first_HWC)]
    with ffmpeg.FFmpeg(
        [*pixels, "-framerate", str(job.fps), "-i", "pipe:0", *arguments], job.subject, is_fed=True
    ) as process:
        source.feed(process, first_HWC)
        process.finish()


def _size(frame_HWC: Pixels) -> str:
    return f"{frame_HWC.shape[1]}x{frame_HWC.shape[0]}"
