"""Writing video files frame by frame, whole or not at all.

Files are made in a hidden folder beside the target, and moved when they are complete.

Shapes: T frames, H and W in pixels, the last axis red, green and blue.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import VideoError
from ..whole_file import check_writable, move, work_folder
from . import codecs, ffmpeg, webp_tags
from .codecs import CODECS, Quality
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
    """Write a clip to a file, which appears when it is complete and replaces one of the same name. Returns its path.

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

    Raises:
        VideoError: the file cannot be written, or not like this. Exceptions of `frames` and `progress` pass unchanged.
    """
    job = _Job(Path(path), fps, codec, quality, bit_depth)
    check_metadata(metadata, job.container, job.path)
    check_audio(audio, job.container, job.path)
    feed = partial(_feed, frames, job, progress)
    with work_folder(job.path) as folder:
        finished = folder / f"finished{job.path.suffix.lower()}"
        tags = tag_input(metadata, folder) if metadata and job.codec != "webp" else []
        if job.codec == "gif":
            _write_gif(feed, job, finished)
        elif audio is None:
            feed(_output(job, finished, tags))
        else:
            silent = finished.with_stem("silent")
            num_frames = feed(_output(job, silent, []))
            add_audio(silent, audio, num_frames / job.fps, job.container, tags, finished)
        if metadata and job.codec == "webp":
            webp_tags.add_tags(finished, metadata)
        move(finished, job.path)
    return job.path


def check_target(path: str | Path, codec: str | None = None, bit_depth: int | None = None) -> None:
    """Raise VideoError now if `save_video` could not write there: for a check before hours of work."""
    check_writable(_Job(Path(path), 30, codec, None, bit_depth).path)


class _Job:
    """Checked arguments of `save_video`."""

    def __init__(
        self, path: Path, fps: float | Fraction, codec: str | None, quality: Quality | None, bit_depth: int | None
    ) -> None:
        self.path = path
        self.container, self.codec = codecs.choose(path, codec)
        self.quality = CODECS[self.codec].quality_number(quality)
        self.fps = codecs.frame_rate(fps, self.codec)
        self.encoder = codecs.pick_encoder(self.codec, ffmpeg.encoders())
        self.bit_depth = codecs.choose_bit_depth(self.codec, bit_depth)
        self.subject = f"writing {path.name} ({self.codec})"


def _output(job: _Job, file: Path, tags: list[str]) -> list[str]:
    """ffmpeg's arguments to write input 0 into a file; `tags` from `tag_input`, or empty."""
    return [
        *tags,
        *("-map", "0:v", *(("-map_metadata", "1") if tags else ())),
        *CODECS[job.codec].arguments(job.encoder, job.quality, job.bit_depth),
        *job.container.options,
        *("-f", job.container.muxer, ffmpeg.file_argument(file)),
    ]


def _write_gif(feed: Callable[[list[str]], int], job: _Job, file: Path) -> None:
    """Write a gif with one palette for all frames, which wait in a lossless file, not in memory."""
    lossless, palette = file.with_name("lossless.avi"), file.with_name("palette.png")
    arguments = [
        *("-map", "0:v", "-c:v", "ffv1", "-pix_fmt", "bgr0", "-f", "avi", ffmpeg.file_argument(lossless)),
        *("-map", "0:v", "-vf", f"palettegen=max_colors={int(job.quality)}", "-update", "1", "-c:v", "png"),
        *("-f", "image2", str(palette)),
    ]
    feed(arguments)
    arguments = [
        *("-v", "error", "-i", ffmpeg.file_argument(lossless), "-i", str(palette)),
        *("-lavfi", "paletteuse=dither=bayer:bayer_scale=3", *job.container.options),
        *("-f", job.container.muxer, ffmpeg.file_argument(file)),
    ]
    ffmpeg.run(arguments, job.subject)


def _feed(frames: Tensor | Iterable[Frame], job: _Job, progress: WriteProgress | None, arguments: list[str]) -> int:
    """Run ffmpeg with the frames as input 0, and count them."""
    total = len(frames) if isinstance(frames, Sized) else None
    pixels = _pixels(frames, job)
    first_HWC = next(pixels)
    pixel_format = "rgb24" if first_HWC.dtype == np.uint8 else f"rgb48{sys.byteorder[0]}e"
    source = ["-v", "error", "-f", "rawvideo", "-pix_fmt", pixel_format, "-s", _size(first_HWC)]
    source += ["-framerate", str(job.fps), "-i", "pipe:0"]
    with ffmpeg.FFmpeg([*source, *arguments], job.subject, is_fed=True) as process:
        for num_frames, frame_HWC in enumerate(chain([first_HWC], pixels), 1):
            process.write(frame_HWC.data.cast("B"))
            if progress is not None:
                progress(num_frames, total)
        process.finish()
    return num_frames


def _pixels(frames: Tensor | Iterable[Frame], job: _Job) -> Iterator[Pixels]:
    """The frames as rgb24 or rgb48, at least one, all of one size."""
    first_HWC = None
    for index, frame in enumerate(frames):
        frame_HWC = _encoded(frame, index, job)
        if first_HWC is None:
            first_HWC = frame_HWC
        if frame_HWC.shape != first_HWC.shape:
            raise VideoError(
                f"frame {index} has {_size(frame_HWC)} pixels, frame 0 has {_size(first_HWC)}. "
                "All frames of a clip must have one size."
            )
        yield frame_HWC
    if first_HWC is None:
        raise VideoError("the clip has no frames, so there is nothing to write.")


def _encoded(frame: Frame, index: int, job: _Job) -> Pixels:
    if isinstance(frame, np.ndarray):
        frame = torch.from_numpy(frame if frame.flags.writeable else frame.copy())  # PIL's arrays are read-only
    if not isinstance(frame, Tensor):
        raise TypeError(f"frame {index} is {type(frame).__name__}, not a tensor or array")
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.numel() == 0:
        raise ValueError(f"frame {index} has the shape {list(frame.shape)}, not [H, W, 3]")
    if frame.is_floating_point():
        if not bool(frame.isfinite().all()):
            raise VideoError(
                f"frame {index} has NaN or Inf, and would be black. "
                "Run the model in bfloat16 or float32: float16 may have overflowed."
            )
    elif frame.dtype != torch.uint8:
        raise ValueError(f"frame {index} is {frame.dtype}, not float in [0, 1] or uint8")
    if job.bit_depth > 8:
        frame = to_uint16(frame.detach())
    elif frame.dtype != torch.uint8:
        frame = to_uint8(frame.detach())
    frame_HWC: Pixels = frame.cpu().numpy()
    even_size = CODECS[job.codec].even_size
    wider, higher = (side % 2 * even for side, even in zip(frame.shape[1::-1], even_size, strict=True))
    return np.ascontiguousarray(np.pad(frame_HWC, ((0, higher), (0, wider), (0, 0)), mode="edge"))


def _size(frame_HWC: Pixels) -> str:
    return f"{frame_HWC.shape[1]}x{frame_HWC.shape[0]}"
