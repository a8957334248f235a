"""Download published files: never half a file under the final name.

huggingface_hub is asked for the token alone. Its own download (tried: 2.4.0) checks the length but not the hash: a file
with wrong bytes got its final name without a word. It cannot be cancelled while the network is silent, knows no
ModelScope, keeps the publisher's name and leaves a `.cache` in the model folder.

An interrupted download leaves its part beside the target, and the next call resumes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPResponse
from pathlib import Path
from typing import TypeVar

from ..errors import CheckpointError, DownloadError
from ..progress import Progress
from ..weights.safetensors_files import open_file, open_weights
from ..whole_file import cannot_write, is_full
from .catalog import HUGGING_FACE, SOURCES, PublishedFile
from .part import DamagedError, Part, check_free, download_lock
from .sources import Announcement, announce
from .waiting import call_in_thread, iterate_in_thread, pause
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

    DownloadError says why one could not be had, and what to do; those before it are there.
    """
    check_room(folders)
    sizes = {file: file.num_bytes for file in folders}
    paths: list[Path] = []
    before = 0
    for file, folder in folders.items():

        def report(done: int, total: int, file: PublishedFile = file, before: int = before) -> None:
            sizes[file] = total
            progress(before + done, sum(sizes.values()))

        paths.append(fetch(file, folder, source, progress=report, patience=patience))
        before += sizes[file]
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

    Nothing is asked of the network when it is there. DownloadError says why it could not be had, and what to do.
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
        resumes = " Then start again: the download resumes where it stopped." if is_full(error) else ""
        raise DownloadError(f"{cannot_write(target, error)}{resumes}") from error
    return target


def check_room(folders: Mapping[PublishedFile, Path]) -> None:
    """Raise DownloadError unless all these files, by folder, find room; sizes are approximate."""
    missing: dict[int, tuple[Path, int]] = {}
    for file, folder in folders.items():
        there = next((path for path in (folder, *folder.parents) if path.exists()), None)
        if there is None:  # a drive letter of Windows
            raise DownloadError(f"the drive of {folder} does not exist. Choose a folder on another one.")
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
            announced = self._persist(self._announce)
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

    def _announce(self) -> Announcement:
        return call_in_thread(lambda: announce(self.file, self.source, self.patience.silence), self.tick)

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
        answer = call_in_thread(lambda: _ask(announced, start, etag, silence), self.tick)
        found = answer.headers.get("ETag", "")
        self.etag = found if found.startswith('"') else None  # weak ones do not tell about bytes
        if answer.status != 206:  # all of it comes
            part.start_over()
        for chunk in iterate_in_thread(lambda: read(answer, announced.url), self.tick):
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


def _ask(announced: Announcement, start: int, etag: str | None, silence: float) -> HTTPResponse:
    """Ask for the bytes from `start`; all come if the server sends no ranges or has another version by now."""
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
    length = answer.headers.get("Content-Length", "")
    if answer.status == 206:
        length = _size_of_all(answer.headers.get("Content-Range", ""), start)
    sent = whole_number(length)
    if sent is not None and sent != announced.num_bytes:
        answer.close()
        raise DamagedError(f"{sent:,} bytes are sent where {announced.num_bytes:,} were announced")
    return answer


def _size_of_all(sent: str, start: int) -> str:
    """The last number of a header like `bytes 100-999/1000`, of which the first must be `start`."""
    span, _, size = sent.removeprefix("bytes").strip().partition("/")
    if whole_number(span.partition("-")[0]) != start:
        raise DamagedError(f"bytes from {start:,} were asked for, and {sent[:80]!r} came")
    return size


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
