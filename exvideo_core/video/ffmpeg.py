"""Running ffmpeg: bytes in or out, its last words kept, and no process or half-read pipe left behind.

The program is the one that the imageio-ffmpeg package brings. At least version 5.1 is needed (`-fps_mode`).
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
from types import TracebackType
from typing import IO

import imageio_ffmpeg  # type: ignore[import-untyped]  # it ships no types

from ..errors import VideoError
from ..whole_file import MAKE_ROOM

_NO_WINDOW: int = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows would open a console for each call


class FFmpeg:
    """One run of ffmpeg, as a context manager: leaving the block early kills and reaps it.

    Its messages are read by a thread all the while, as a full pipe would stop it.
    """

    def __init__(
        self, arguments: Sequence[str], subject: str, *, is_fed: bool = False, kept_lines: int | None = 12
    ) -> None:
        """Start it.

        Args:
            arguments: without the program; "pipe:0" is what `write` gets, "pipe:1" what `read` returns.
            subject: what is being done, for the error message: "writing clip.mp4 (h264)".
            is_fed: whether frames are written to it; otherwise it gets no input.
            kept_lines: how many of its last messages are kept; None keeps all.
        """
        self._subject = subject
        self._last_lines: deque[str] = deque(maxlen=kept_lines)
        self._process = _start([executable(), "-hide_banner", "-nostats", *arguments], is_fed)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> FFmpeg:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._close(self._process.stdin)
        self._process.wait()
        self._listener.join()
        self._close(self._process.stdout)
        self._close(self._process.stderr)

    def write(self, chunk: bytes | memoryview) -> None:
        """Feed bytes; VideoError if ffmpeg has died."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(chunk)
        except OSError as error:  # BrokenPipeError; EINVAL on Windows
            raise self._failure() from error

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes of its output; fewer only at the end."""
        assert self._process.stdout is not None
        return self._process.stdout.read(size)

    def readline(self) -> bytes:
        """One line of its output; empty at the end."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def finish(self) -> str:
        """Close its input, wait for its end, and return its last messages; VideoError if it failed."""
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except OSError as error:  # what was still buffered found nobody
                raise self._failure() from error
        if self._process.wait() != 0:
            raise self._failure()
        self._listener.join()
        return "\n".join(self._last_lines)

    def _failure(self) -> VideoError:
        """What to raise; waits for the process, so that its last lines are complete."""
        status = self._process.wait()
        self._listener.join()
        lines = [re.sub(r" @ 0x[0-9a-fA-F]+", "", line) for line in self._last_lines]
        cause = "; ".join(lines) or (f"it was ended by signal {-status}" if status < 0 else f"exit status {status}")
        return VideoError(f"ffmpeg failed while {self._subject}: {cause}. {_what_to_do(cause, status)}")

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            text = line.decode("utf-8", errors="replace").strip()
            if text:
                self._last_lines.append(text)

    @staticmethod
    def _close(pipe: IO[bytes] | None) -> None:
        if pipe is not None:
            with suppress(OSError):  # unsent bytes of a killed process
                pipe.close()


def _what_to_do(cause: str, status: int) -> str:
    if os.strerror(errno.ENOSPC) in cause:
        return MAKE_ROOM
    if status < 0:
        return "A system without main memory ends programs so: end others, and do it again."
    return "If that does not tell why: pip install --force-reinstall imageio-ffmpeg, and do it again."


def run(arguments: Sequence[str], subject: str) -> bytes:
    """Run ffmpeg without input to its end and return what it wrote to pipe:1; VideoError if it failed."""
    with FFmpeg(arguments, subject) as process:
        output = process.read()
        process.finish()
    return output


def executable() -> str:
    """Where ffmpeg is; VideoError if there is none."""
    try:
        program: str = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise VideoError("ffmpeg is missing. Install it with: pip install imageio-ffmpeg") from error
    return program


def encoders() -> frozenset[str]:
    """Names of the encoders this ffmpeg has."""
    return _encoders_of(executable())


# What people have as video or sound. ffmpeg knows playlists too, which would lead it to other files and into the
# network, and patterns of names, and hundreds of formats that nobody has looked at for years.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,obu,ogg,flv,asf,mxf,nut,"
    "yuv4mpegpipe,gif,apng,webp_anim,png_pipe,jpeg_pipe,webp_pipe,wav,w64,mp3,flac,aac,ac3,aiff,caf,au,opus"
)
MOST_PIXELS = 2**26  # of a frame: 8192x8192
_MOST_MEMORY = 2**28  # bytes that ffmpeg may ask for at once: such a frame, or the list of 10 million frames


def input_arguments(path: Path) -> list[str]:
    """To read a file that anybody may have made: a plain video or sound file, with frames of a bounded size."""
    return [
        *("-max_alloc", str(_MOST_MEMORY), "-protocol_whitelist", "file", "-format_whitelist", FORMATS),
        *("-max_pixels", str(MOST_PIXELS), "-i", file_argument(path)),
    ]


def check_video(path: Path) -> None:
    """Look at the structure of a video in a process of its own, for a reader in this one that has no such limits.

    Raises:
        VideoError: it is no video, or asks for absurd amounts of memory.
    """
    arguments = [
        "-v",
        "error",
        *input_arguments(path),
        "-map",
        "0:v:0",
        "-c",
        "copy",
        "-frames:v",
        "1",
        "-f",
        "null",
        "-",
    ]
    run(arguments, f"reading {path.name}")


def file_argument(path: Path) -> str:
    """A path that ffmpeg takes as a file, even where the name looks like one of its protocols."""
    return f"file:{path}"


@lru_cache
def _encoders_of(program: str) -> frozenset[str]:  # keyed by the program: the environment may name another one later
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
            env={**os.environ, "SVT_LOG": "1"},  # errors only: its greeting would push ours out of the last lines
        )
    except OSError as error:
        raise VideoError(
            f"ffmpeg does not start ({command[0]}): {error}. Install it again with: pip install --force-reinstall "
            f"imageio-ffmpeg, and if IMAGEIO_FFMPEG_EXE is set, check it."
        ) from error
