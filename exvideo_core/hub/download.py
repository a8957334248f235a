"""Download published files: never half a file under the final name.

huggingface_hub is asked for the token alone. Its own download (tried: 2.4.0) checks the length but not the hash: a file
with wrong bytes got its final name without a word. It cannot be cancelled while the network is silent, knows no
ModelScope, keeps the publisher's name and leaves a `.cache` in the model folder.

An interrupted download leaves its part beside the target, and the next call resumes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..errors import CheckpointError, DownloadError
from ..progress import Progress
from ..weights.safetensors_files import open_file, open_weights
from .catalog import HUGGING_FACE, SOURCES, PublishedFile
from .part import DamagedError, Part, check_free, disk_sentence, download_lock
from .sources import Announcement, announce
from .waiting import in_thread, pause
from .web import PassingError, Patience, StatusError, host_of, read, request, whole_number

Result = TypeVar("Result")


def locate(file: PublishedFile, paths: Iterable[Path]) -> Path | None:
    """The path among these that has the file: by its own name, or by the published name and its tensors."""
    candidates = [path for path in paths if path.name in file.names and path.is_file()]
    for path in sorted(candidates, key=lambda path: path.name != file.name):
        if path.name == file.name or _is(path, file):
            return path
    return None


def check_whole(path: Path) -> Path:
    """Return the path; raise DownloadError if the file there is incomplete or has no weights."""
    try:
        open_file(path)
    except CheckpointError as error:
        raise DownloadError(f"{path} is there already, but is no whole file: {error} Delete it first.") from error
    return path


def fetch_all(
    folders: Mapping[PublishedFile, Path],
    source: str = HUGGING_FACE,
    *,
    progress: Progress = lambda _done, _total: None,
    patience: Patience | None = None,
) -> list[Path]:
    """Fetch several files, each into its folder; `progress` counts the bytes of all.

    Raises:
        DownloadError: says why one could not be had, and what to do; those before it are there.
    """
    check_room(folders)
    sizes = {file: file.num_bytes for file in folders}
    paths: list[Path] = []
    for file, folder in folders.items():
        before = sum(sizes[earlier] for earlier in list(folders)[: len(paths)])

        def report(done: int, total: int, file: PublishedFile = file, before: int = before) -> None:
            sizes[file] = total
            progress(before + done, sum(sizes.values()))

        paths.append(fetch(file, folder, source, progress=report, patience=patience))
    return paths


def fetch(
    file: PublishedFile,
    folder: Path,
    source: str = HUGGING_FACE,
    *,
    progress: Progress = lambda _done, _total: None,
    patience: Patience | None = None,
) -> Path:
    """Make sure that a published file is in a folder, under its name on disk; return its path.

    Nothing is asked of the network when it is there.

    Raises:
        DownloadError: says why it could not be had, and what to do.
    """
    target = folder / file.name
    if target.exists():
        return check_whole(target)
    download = _Download(file, target, source, progress, patience or Patience())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with download_lock(target, download.tick):
            if not target.exists():  # else another process has downloaded it meanwhile
                download.run()
    except OSError as error:
        raise DownloadError(disk_sentence(error, file.name, folder)) from error
    return target


def check_room(folders: Mapping[PublishedFile, Path]) -> None:
    """Raise DownloadError unless all these files, by folder, find room; sizes are approximate."""
    missing: dict[int, tuple[Path, int]] = {}
    for file, folder in folders.items():
        there = folder
        while not there.exists():
            there = there.parent
        if not (folder / file.name).exists():
            parts = sum(map(_size, folder.glob(f"{file.name}.*.part")))
            disk = there.stat().st_dev
            missing[disk] = there, missing.get(disk, (there, 0))[1] + max(file.num_bytes - parts, 0)
    for folder, num_bytes in missing.values():
        check_free(folder, num_bytes, "the files take")


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:  # another process has just finished it
        return 0


class _Download:
    """The download of one file from one source."""

    def __init__(self, file: PublishedFile, target: Path, source: str, progress: Progress, patience: Patience) -> None:
        self.file, self.target, self.source = file, target, source
        self.progress, self.patience = progress, patience
        self.done, self.total = 0, file.num_bytes or 1  # bars divide by it, and it is known soon
        self.etag: str | None = None  # of what has arrived in this call

    def tick(self) -> None:
        self.progress(self.done, self.total)

    def run(self) -> None:
        """Download the file; if it arrives damaged, once more from its start."""
        for is_last in (False, True):
            announced = self._persist(lambda: next(in_thread(self._announce, self.tick)))
            self.done, self.total, self.etag = 0, announced.num_bytes, None
            part = Part(self.target, announced.version)
            try:
                with part:
                    self._fill(part, announced)
                    part.finish(announced.sha256)
                if announced.sha256 is None:
                    open_file(part.path)  # at least refuses an incomplete file, or a web page
                os.replace(part.path, self.target)
                return
            except (DamagedError, CheckpointError) as error:
                part.path.unlink()
                if is_last:
                    raise DownloadError(
                        f"{self.file.name} arrived damaged twice ({error}); it was deleted. "
                        f"Try again later, or {_other(self.source)}."
                    ) from error

    def _announce(self) -> Iterator[Announcement]:
        yield announce(self.file, self.source, self.patience.silence)

    def _fill(self, part: Part, announced: Announcement) -> None:
        for self.done in part.read_again():
            self.tick()
        check_free(self.target.parent, self.total - self.done, f"{self.file.name} takes")
        if self.done > self.total:
            raise DamagedError(f"{self.done:,} bytes are there, {self.total:,} were announced")
        if self.done < self.total:
            self._persist(lambda: self._receive(part, announced))

    def _receive(self, part: Part, announced: Announcement) -> None:
        start, etag, silence = part.num_bytes, self.etag, self.patience.silence
        for chunk in in_thread(lambda: _chunks(announced, start, etag, silence), self.tick):
            if isinstance(chunk, _Beginning):
                self.etag = chunk.etag
                if chunk.position != start:
                    part.start_over()
                continue
            part.append(chunk)
            self.done = part.num_bytes
            if self.done > self.total:
                raise DamagedError(f"more came than the announced {self.total:,} bytes")
        if self.done < self.total:
            raise PassingError(f"the connection ended after {self.done:,} of {self.total:,} bytes")

    def _persist(self, work: Callable[[], Result]) -> Result:
        """Retry `work` until it succeeds, or until `patience.attempts` in a row brought no new bytes."""
        failures, most = 0, self.done
        while True:
            try:
                return work()
            except StatusError as error:
                raise DownloadError(_refusal(error, self.file, self.source)) from error
            except PassingError as error:
                failures = 1 if self.done > most else failures + 1
                most = max(most, self.done)
                if failures >= self.patience.attempts:
                    kept = "What has arrived is kept, and the next try resumes it. " if most else ""
                    raise DownloadError(
                        f"{self.file.name} could not be fetched from {SOURCES[self.source]} in {failures} attempts in "
                        f"a row ({error}). {kept}Check the connection, or {_other(self.source)}."
                    ) from error
                pause(self.patience.before(failures + 1, error.wait), self.tick)


@dataclass(frozen=True)
class _Beginning:
    """Position of the bytes that follow, and the ETag of their version."""

    position: int
    etag: str | None


def _chunks(announced: Announcement, start: int, etag: str | None, silence: float) -> Iterator[_Beginning | bytes]:
    """Yield the bytes from `start`, or from 0 if the server sends no ranges or has another version by now."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    if start and etag:
        headers["If-Range"] = etag
    try:
        answer = request(announced.url, headers=headers, token=announced.token, silence=silence)
    except StatusError as error:
        if error.status == 416:
            raise DamagedError("the server knows no bytes after those that are there") from error
        if error.status == 403 and error.host != host_of(announced.url):  # an address that is valid for a while only
            raise PassingError(str(error)) from error
        raise
    position, length = 0, answer.headers.get("Content-Length", "")
    if answer.status == 206:
        position, length = _content_range(answer.headers.get("Content-Range", ""), start)
    sent = whole_number(length)
    if sent is not None and sent != announced.num_bytes:
        answer.close()
        raise DamagedError(f"{sent:,} bytes are sent where {announced.num_bytes:,} were announced")
    found = answer.headers.get("ETag", "")
    yield _Beginning(position, found if found.startswith('"') else None)  # weak ones do not tell about bytes
    yield from read(answer, announced.url)


def _content_range(text: str, start: int) -> tuple[int, str]:
    """First byte and size of the whole, from a header like `bytes 100-999/1000`."""
    span, _, size = text.removeprefix("bytes").strip().partition("/")
    first = span.partition("-")[0]
    if whole_number(first) != start:
        raise DamagedError(f"bytes from {start:,} were asked for, and {text[:80]!r} came")
    return start, size


def _is(path: Path, file: PublishedFile) -> bool:
    try:
        return open_weights(path).identity.kind is file.kind
    except CheckpointError:
        return False


def _refusal(error: StatusError, file: PublishedFile, source: str) -> str:
    page = file.page(source)
    if error.status in (401, 403) and source == HUGGING_FACE:
        accept = "accept its licence there" if file.license_to_accept else "ask for access there if it offers that"
        return (
            f"{error}: not everybody may have {file.name}. Sign in at {page}, {accept}, make a token at "
            f"https://huggingface.co/settings/tokens, set the environment variable HF_TOKEN to it and start again; "
            f"or {_other(source)}."
        )
    if error.status == 404:
        return f"{error}: there is no {file.path} at {page} any more. Look at that page, or {_other(source)}."
    return f"{error} when asked for {file.name}. Look at {page}, try again later, or {_other(source)}."


def _other(source: str) -> str:
    return " or ".join(f"take it from {name}" for key, name in SOURCES.items() if key != source)
