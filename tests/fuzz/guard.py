"""What no reader may do, whatever it is given: Python reports each of these events, and here they become failures."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exvideo_core.video import ffmpeg

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "os.utime", "os.setxattr", "os.removexattr", "os.mkfifo", "os.mknod",
}  # fmt: skip
_FORBIDDEN = {
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "pickle.find_class",
    "marshal.loads", "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
    "ctypes.dlopen",
}  # fmt: skip
# Whose business is to run code that was written with them: an import, or the type of a field as a string.
_RUN_CODE = ("importlib.", "zipimport", "typing", "typing_extensions", "dataclasses", "collections", "pydantic.")


class ForbiddenError(BaseException):
    """A reader did what none may do. No reader's `except` may swallow it."""


class _State:
    """Of this process: whether a reader is at work, where it may write, and what it did."""

    is_armed = False
    is_installed = False
    writable: str | None = None
    program = ""  # ffmpeg's
    seen: list[str] = []  # noqa: RUF012  emptied at each reading


@contextmanager
def guarded(writable: Path | None = None) -> Iterator[None]:
    """Within this block, raise ForbiddenError for everything but reading files, and writing into one folder.

    ffmpeg may be started, and nothing else. What a library swallows is raised again at the end.
    """
    if not _State.is_installed:
        sys.addaudithook(_look)  # there is no way to remove it
        _State.is_installed = True
    _State.program = ffmpeg.executable()
    _State.writable = None if writable is None else os.path.realpath(writable)
    _State.seen = []
    _State.is_armed = True
    try:
        yield
    finally:
        _State.is_armed = False
        if _State.seen:
            raise ForbiddenError(_State.seen[0])


def _look(event: str, arguments: tuple[object, ...]) -> None:
    if not _State.is_armed:
        return
    if event == "open":
        path, mode, flags = arguments
        is_writing = bool(flags & _WRITING) if isinstance(flags, int) else bool(set(str(mode)) & set("wax+"))
        refused = is_writing and not _is_inside(path)
    elif event in _CHANGES or event.startswith("shutil."):
        refused = not all(_is_inside(path) for path in arguments if isinstance(path, str | bytes | os.PathLike))
    elif event == "subprocess.Popen":
        refused = _State.program not in (arguments[0], *list(arguments[1])[:1])
    elif event in ("exec", "compile"):
        caller = sys._getframe(1).f_globals.get("__name__", "")
        # Cython compiles an expression of its own when it raises an error
        refused = arguments[0] != b"_getframe()" and not caller.startswith(_RUN_CODE)
    else:
        refused = event in _FORBIDDEN and not _is_import(event)
    if refused:
        _State.seen.append(f"{event} {str(arguments)[:300]}")
        raise ForbiddenError(_State.seen[-1])


def _is_import(event: str) -> bool:
    """Whether the machinery of imports reads compiled code, or loads an extension."""
    return event == "marshal.loads" and sys._getframe(2).f_globals.get("__name__", "").startswith("importlib.")


def _is_inside(path: object) -> bool:
    if isinstance(path, int) or path == os.devnull:  # a file that is open already
        return True
    if _State.writable is None:
        return False
    real = os.path.realpath(os.fsdecode(path))
    return real == _State.writable or real.startswith(_State.writable + os.sep)
