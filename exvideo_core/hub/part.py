"""A partial download on disk, its lock, and free space."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import DownloadError
from .waiting import Tick

_SPARE = 64_000_000  # bytes to leave free on a disk
_CHUNK = 1 << 20


class DamagedError(Exception):
    """The bytes that arrived are not those that were announced."""


class Part:
    """The first bytes of a file, on disk, and their hash; use it as a context manager.

    It is called NAME.VERSION.part, VERSION from the announced hash, so that parts of two versions never meet.
    """

    def __init__(self, target: Path, version: str) -> None:
        short = hashlib.sha256(version.encode()).hexdigest()[:12]
        self.path = target.with_name(f"{target.name}.{short}.part")
        self.target = target
        self.num_bytes = 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> Part:
        for stale in set(self.target.parent.glob(f"{self.target.name}.*.part")) - {self.path}:
            stale.unlink()
        self._stream = self.path.open("r+b" if self.path.exists() else "w+b")
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read_again(self) -> Iterator[int]:
        """Hash what an earlier call left; yields the number of bytes read so far."""
        while chunk := self._stream.read(_CHUNK):
            self._count(chunk)
            yield self.num_bytes

    def append(self, chunk: bytes) -> None:
        self._stream.write(chunk)
        self._stream.flush()  # so that it survives this process
        self._count(chunk)

    def start_over(self) -> None:
        self._stream.seek(0)
        self._stream.truncate()
        self.num_bytes, self._digest = 0, hashlib.sha256()

    def finish(self, sha256: str | None) -> None:
        """Flush the file to disk; it keeps the part's name. DamagedError if its hash is not this one."""
        if sha256 not in (None, self._digest.hexdigest()):
            raise DamagedError("its SHA-256 is not the announced one")
        os.fsync(self._stream.fileno())

    def _count(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self.num_bytes += len(chunk)


@contextmanager
def download_lock(target: Path, tick: Tick) -> Iterator[None]:
    """Wait until no other process downloads this file; the system frees the lock of a killed one."""
    from filelock import FileLock, Timeout  # slow to import

    path = Path(f"{target}.lock")
    lock = FileLock(path)
    try:
        while not lock.is_locked:
            tick()
            with suppress(Timeout):
                lock.acquire(timeout=0.2)
    except NotImplementedError:  # some network disks
        logging.warning("%s cannot be locked: let only one process download it", target)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows deletes no open file
            path.unlink()
        lock.release()


def check_free(folder: Path, num_bytes: int, what: str) -> None:
    """Raise DownloadError unless the disk of an existing folder has room for so many more bytes."""
    free = shutil.disk_usage(folder).free
    if num_bytes > 0 and free < num_bytes + _SPARE:
        raise DownloadError(
            f"no room: {what} {num_bytes / 1e9:,.2f} GB more, and {folder} has {free / 1e9:,.2f} GB free. "
            f"Make room, or choose a folder on another disk."
        )
