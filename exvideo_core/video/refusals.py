"""What a disk refused, for people."""

from __future__ import annotations

import errno
from pathlib import Path

from ..errors import VideoError

WORK = ".exvideo-"  # begins the names of hidden folders for what is not complete
MAKE_ROOM = "Make room on that disk, or choose another folder."


def cannot_write(folder: Path, error: OSError) -> VideoError:
    """The error of a file that could not be written into a folder."""
    if folder.name.startswith(WORK):  # people look for the one that they have chosen
        folder = folder.parent
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = MAKE_ROOM if is_full else "Choose another folder."
    return VideoError(f"cannot write to the folder {folder}: {error.strerror or error}. {advice}")
