"""Running ffmpeg: bytes in or out, its last messages kept, and no process or pipe left open.

The executable is that of the imageio-ffmpeg package; version 5.1 or newer is needed (`-fps_mode`).
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, cast

from ..errors import VideoError
from ..whole_file import MAKE_ROOM

_NO_WINDOW: int = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows would open a console for each call


class FFmpeg:
    """One ffmpeg process, as a context manager: leaving the block early kills and reaps it.

    A thread reads its messages, because a full pipe would block it.
    """

    def __init__(
        self, arguments: Sequence[str], subject: str, *, is_fed: bool = False, kept_lines: int | None = 12
    ) -> None:
        """Start it.

        Args:
            arguments: without the program; "pipe:0" is what `write` gets, "pipe:1" is `output`.
            subject: what it does, for error messages: "writing clip.mp4 (h264)".
            is_fed: whether frames are written to it; else it has no input.
            kept_lines: how many of its last messages to keep; None keeps all.
        """
        self._subject = subject
        self._last_lines: deque[str] = deque(maxlen=kept_lines)
        self._process = _start([executable(), "-hide_banner", "-nostats", *arguments], is_fed)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.output = cast("IO[bytes]", self._process.stdout)  # of "pipe:1"; none if it is fed

    def __enter__(self) -> FFmpeg:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError), self._process:  # which closes its pipes; unsent bytes of a killed process are an error
            self._process.kill()
            self._listener.join()

    def write(self, chunk: bytes | memoryview) -> None:
        """Write bytes to its input; VideoError if ffmpeg has exited."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(chunk)
        except OSError as error:  # BrokenPipeError; EINVAL on Windows
            raise self._failure() from error

    def finish(self) -> str:
        """Close its input, wait for its end, and return its last messages; VideoError if it failed."""
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except OSError as error:  # it exited before the buffer was flushed
                raise self._failure() from error
        if self._process.wait() != 0:
            raise self._failure()
        self._listener.join()
        return "\n".join(self._last_lines)

    def _failure(self) -> VideoError:
        """The error to raise; waits for the process, so that its messages are complete."""
        status = self._process.wait()
        self._listener.join()
        lines = [re.sub(r" @ 0x[0-9a-fA-F]+", "", line) for line in self._last_lines]
        cause = "; ".join(lines) or (f"it was killed by signal {-status}" if status < 0 else f"exit status {status}")
        return VideoError(f"ffmpeg failed while {self._subject}: {cause}. {_what_to_do(cause, status)}")

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if text := line.decode("utf-8", errors="replace").strip():
                self._last_lines.append(text)


def _what_to_do(cause: str, status: int) -> str:
    if os.strerror(errno.ENOSPC) in cause:
        return MAKE_ROOM
    if status < 0:
        return "The system may be out of memory: end other programs, and write it again."
    return "If the cause is not clear: pip install --force-reinstall imageio-ffmpeg, and write it again."


def run(arguments: Sequence[str], subject: str) -> bytes:
    """Run ffmpeg without input, and return its output on pipe:1; VideoError if it failed."""
    with FFmpeg(arguments, subject) as process:
        output = process.output.read()
        process.finish()
    return output


def executable() -> str:
    """Path of ffmpeg; VideoError if there is none."""
    try:
        import imageio_ffmpeg  # type: ignore[import-untyped]  # here, as only files need it; it ships no types

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise VideoError("ffmpeg is missing. Install it with: pip install imageio-ffmpeg") from error


def encoders() -> frozenset[str]:
    """Names of this ffmpeg's encoders."""
    return _encoders_of(executable())


# Formats that are read. ffmpeg knows hundreds more, with little reviewed code, and playlists and name patterns, which
# would lead it to other files and into the network.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,obu,ogg,flv,asf,mxf,nut,"
    "yuv4mpegpipe,gif,apng,webp_anim,png_pipe,jpeg_pipe,webp_pipe,wav,w64,mp3,flac,aac,ac3,aiff,caf,au,opus"
)
# swscale's conversion to RGB, in ffmpeg's process and, as bits, in PyAV
SCALE_FLAGS = {"bicubic": 0x4, "full_chroma_int": 0x2000, "full_chroma_inp": 0x4000, "accurate_rnd": 0x40000}
MOST_PIXELS = 2**26  # of a frame: 8192x8192
_MOST_MEMORY = 2**28  # bytes of one allocation: such a frame, or the index of 10 million frames


def input_arguments(path: Path) -> list[str]:
    """Arguments to read an untrusted file: only plain video and sound, with frames of bounded size."""
    return [
        *("-max_alloc", str(_MOST_MEMORY), "-protocol_whitelist", "file", "-format_whitelist", FORMATS),
        *("-max_pixels", str(MOST_PIXELS), "-i", file_argument(path)),
    ]


def check_video(path: Path) -> None:
    """Check a video in a separate process, for a reader in this one; VideoError if it is none, or asks for too much."""
    look = ("-map", "0:v:0", "-c", "copy", "-frames:v", "1", "-f", "null", "-")
    run(["-v", "error", *input_arguments(path), *look], f"reading {path.name}")


def file_argument(path: Path) -> str:
    """A path that ffmpeg takes for a file, even if it looks like one of its protocols."""
    return f"file:{path}"


@lru_cache
def _encoders_of(program: str) -> frozenset[str]:  # by program: the environment may change
    listing = run(["-v", "error", "-encoders"], f"listing the encoders of {program}")
    return frozenset(re.findall(r"^ [VA][A-Z.]{5} (\S+)", listing.decode(errors="replace"), flags=re.MULTILINE))


def _start(command: Sequence[str], is_fed: bool) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE if is_fed else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if is_fed else subprocess.PIPE,
            stderr=subprocess.PIPE,
            creationflags=_NO_WINDOW,
            env={**os.environ, "SVT_LOG": "1"},  # errors only: its banner would push other messages out
        )
    except OSError as error:
        raise VideoError(
            f"ffmpeg does not start ({command[0]}): {error}. Install it again with: pip install --force-reinstall "
            f"imageio-ffmpeg, and if IMAGEIO_FFMPEG_EXE is set, check it."
        ) from error
