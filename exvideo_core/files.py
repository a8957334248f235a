"""Reading small untrusted files, and quoting them in messages."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def regular_size(path: Path) -> int:
    """Bytes of a regular file, also through a link; OSError if it is missing, or a folder, pipe or device."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a regular file", str(path))
    return status.st_size


def read_small(path: Path, most: int) -> str:
    """The text of a file in UTF-8, without the byte order mark that Windows' editors write.

    Args:
        path: of a regular file.
        most: bytes such a file can have; more would only fill memory.

    Raises:
        OSError: it is missing, not a regular file, too large, or cannot be read.
        UnicodeDecodeError: it is not text.
    """
    size = regular_size(path)
    if size > most:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, and such a file has at most {most:,}", str(path))
    return path.read_bytes().decode("utf-8-sig")


def quoted(text: str, longest: int = 200) -> str:
    """Text from a file, safe to show in a message: one line, no control characters, at most `longest` letters."""
    cut = " ".join(text[: 2 * longest].split())
    line = "".join(letter if letter.isprintable() else "?" for letter in cut)
    return line if len(line) <= longest and len(text) <= 2 * longest else f"{line[:longest]}..."
