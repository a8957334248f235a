"""Options of the video file, shared by the verbs that make a clip, and making and writing it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import VideoError
from ..progress import Progress
from ..runtime.resume import SavedRun
from ..video import check_target, save_video
from ..video.codecs import BIT_DEPTHS, CODECS, DEFAULT_QUALITY, QUALITIES
from ..video.files import Frame
from .progress import Bar, say


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    add = parser.add_argument
    add("-o", "--output", type=Path, default="video.mp4", help="mp4, mov, mkv, webm, gif or webp (%(default)s)")
    add("--codec", choices=list(CODECS), help="default: what plays in most places, for that ending")
    add("--quality", choices=QUALITIES, default=DEFAULT_QUALITY, help="of the video (%(default)s)")
    add("--bit-depth", type=int, choices=BIT_DEPTHS, help="per colour; 10 for h265, vp9, av1 and prores (default: 8)")


def check_output(arguments: argparse.Namespace) -> None:
    """Raise VideoError now where `write_output` would later."""
    check_target(arguments.output, arguments.codec, arguments.bit_depth)


def saved_run(arguments: argparse.Namespace) -> SavedRun:
    """Where the state of the run is saved, beside the video, until the video is written."""
    output: Path = arguments.output
    return SavedRun(output.with_name(f"{output.name}.unfinished"), tell=say)


def make_clip(
    call: Callable[..., Any],
    decode: Callable[[Tensor, Progress], Iterable[Frame]],
    chunk: str,
    fps: float,
    arguments: argparse.Namespace,
    resume: SavedRun | None,
) -> None:
    """Call a pipeline that has all its settings, with progress bars, and write its frames as they are decoded.

    Args:
        call: takes callback, output_type and resume, and returns a result with latents.
        decode: of these latents, with a progress in chunks.
        chunk: what is decoded at once.
    """
    with Bar("sampling", "step") as sampling:
        result = call(
            callback=lambda step, steps, _denoised: sampling(step, steps), output_type="latents", resume=resume
        )
    with Bar("decoding", chunk) as decoding:
        write_output(decode(result.latents, decoding), fps, arguments)


def write_output(frames: Iterable[Frame], fps: float, arguments: argparse.Namespace) -> None:
    """Write the file, print its name, and forget the saved run."""
    options = {"codec": arguments.codec, "quality": arguments.quality, "bit_depth": arguments.bit_depth}
    run = saved_run(arguments)
    try:
        path = save_video(frames, arguments.output, fps, **options)
    except VideoError as error:
        if not run.path.exists():
            raise
        raise VideoError(f"{error} All steps are saved: the same command only decodes and writes.") from error
    run.forget()
    print(path)
