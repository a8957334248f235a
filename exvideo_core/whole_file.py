"""Files written whole or not at all: under a hidden name on the same disk, then renamed.

`whole_file` writes one file. `work_folder` and `move` are for several files, and for programs that look at suffixes.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import ExVideoError, VideoError

MAKE_ROOM = "Make room on that disk, or choose another folder."
_WORK = ".exvideo-"  # begins the names of hidden folders


@contextmanager
def whole_file(path: Path, error_type: type[ExVideoError]) -> Iterator[Path]:
    """Give a temporary path beside `path`. It is flushed to the disk and renamed when the block ends, else deleted.

    Any OSError of the block becomes an `error_type`.
    """
    temporary = path.with_name(part_name(path.name, str(os.getpid())))
    try:
        yield temporary
        _rename(temporary, path)
    except OSError as error:
        raise error_type(cannot_write(path, error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def part_name(name: str, process: str) -> str:
    """Name of a file while it is written; "*" as the process is a glob pattern for those of all processes."""
    return f".{name}.{process}.part"


@contextmanager
def work_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, on the same disk. It is deleted with everything in it when the block ends.

    VideoError if no file can be written at `path`.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        folder = tempfile.TemporaryDirectory(dir=path.parent, prefix=_WORK, ignore_cleanup_errors=True)
    except OSError as error:
        raise VideoError(cannot_write(path, error)) from error
    with folder as name:
        try:
            yield Path(name).absolute()
        except VideoError as error:
            if Path(name).exists():
                raise
            raise VideoError(
                f"the folder {path.parent} was deleted or moved away while {path.name} was written. Write it again."
            ) from error


def check_writable(path: Path) -> None:
    """Raise VideoError now if no file can be written at `path`: for use before hours of work."""
    with work_folder(path):
        pass


def move(finished: Path, path: Path) -> None:
    """Give a finished file its name, in place of an older one; VideoError if the disk refuses."""
    try:
        _rename(finished, path)
    except OSError as error:
        raise VideoError(cannot_write(path, error)) from error


def cannot_write(path: Path, error: OSError) -> str:
    """The error sentence for a file that could not be written, with the folder that people chose for a hidden one."""
    if path.parent.name.startswith(_WORK):
        path = path.parent
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist. Create it, or choose another one."
    if path.is_dir() and not path.name.startswith(_WORK):
        return f"{path} is a folder. Choose another name for the file."
    place = f"the folder {path.parent}" if path.name.startswith(_WORK) else path
    return f"cannot write to {place}: {error.strerror or error}. {_to_do(error)}"


def is_full(error: OSError) -> bool:
    """Whether the disk or the user's share of it is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _to_do(error: OSError) -> str:
    if is_full(error):
        return MAKE_ROOM
    if error.errno == errno.EFBIG:
        return "Choose a disk that takes files this large (FAT32 ends at 4 GB)."
    return "Choose another folder, or close the programs that have the file open."


def _rename(temporary: Path, path: Path) -> None:
    with temporary.open("r+b") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
