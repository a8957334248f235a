"""The index of a training set: which of its videos are undamaged and long enough, found once and cached.

In the cache's folder, `index.jsonl` has a line for each examined file, good or bad, written at once: an interrupted
pass resumes, and a changed file is examined again. `bad_files.jsonl` is for people: path and reason of every file
that the last pass could not use.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from ...errors import ExVideoError, VideoError
from ...files import quoted, read_small
from ...whole_file import cannot_write, whole_file
from .listing import Listed
from .videos import Sampling, VideoFacts, examine, shortcoming

INDEX_NAME = "index.jsonl"
BAD_FILES_NAME = "bad_files.jsonl"
_MOST_BYTES = 2_000_000_000  # of an index: some million videos
_MOST_FRAMES = 10_000_000  # of a video: four days

_Key = tuple[str, int, int]  # path, bytes, and time of the last change in nanoseconds: another key, another file
_Found = VideoFacts | str  # facts, or the reason why the file is bad


@dataclass(frozen=True, kw_only=True)
class IndexedVideo:
    """A video from which clips can be taken."""

    path: Path
    caption: str
    facts: VideoFacts
    size: int  # in bytes
    mtime_ns: int

    @property
    def identity(self) -> str:
        """A name for this state of this file: another one after every change."""
        return hashlib.sha256(json.dumps([str(self.path), self.size, self.mtime_ns]).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class BadFile:
    """A video that is not used."""

    path: Path
    reason: str  # a sentence for people


@dataclass(frozen=True, kw_only=True)
class Index:
    """A training set, sorted into what can be used and what cannot; both in listed order."""

    videos: tuple[IndexedVideo, ...]
    bad: tuple[BadFile, ...]  # too short ones too

    @property
    def num_listed(self) -> int:
        """All of them, which `max_bad_share` is a share of."""
        return len(self.videos) + len(self.bad)


def index_videos(
    listed: Sequence[Listed],
    folder: Path,
    sampling: Sampling,
    max_bad_share: float,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> Index:
    """Examine every file that is not known yet, and sort out those of which no clip can be made.

    One process at a time may write to the folder; with nothing new to examine, any number may run.

    Args:
        folder: where the index is kept; made if it is missing.
        sampling: decides which videos are too short. What is remembered does not depend on it.
        max_bad_share: stop as soon as more than this share of all files is bad, 0 to 1.
        workers: threads that decode, each its own file.

    Raises:
        ExVideoError: too many files are bad, or all of them, or the folder cannot be written.
    """
    videos: list[IndexedVideo] = []
    bad: list[BadFile] = []
    report = folder / BAD_FILES_NAME
    try:
        for number, (entry, key, found) in enumerate(_results(listed, folder, workers), start=1):
            reason = found if isinstance(found, str) else shortcoming(found, sampling)
            if key and isinstance(found, VideoFacts) and not reason:
                _, size, mtime_ns = key
                videos.append(
                    IndexedVideo(path=entry.path, caption=entry.caption, facts=found, size=size, mtime_ns=mtime_ns)
                )
            else:
                bad.append(BadFile(path=entry.path, reason=str(reason)))
                check_share(bad, len(listed), max_bad_share, report)
            if progress:
                progress(number, len(listed))
    finally:
        _write_report(report, bad)
    return Index(videos=tuple(videos), bad=tuple(bad))


def check_share(bad: Sequence[BadFile], num_listed: int, max_bad_share: float, report: Path) -> None:
    """Raise ExVideoError if more videos are bad than may be, or all of them; `report` says where they stand."""
    found = f"{len(bad)} of {num_listed} videos cannot be used"
    if len(bad) == num_listed:
        raise ExVideoError(f"{found} (first: {_sentence(bad[0])}); see {report}.")
    if len(bad) > max_bad_share * num_listed:
        raise ExVideoError(
            f"{found} (first: {_sentence(bad[0])}), more than the share of {max_bad_share:g} that data.max_bad_share "
            f"allows; see {report}."
        )


def bad_file_line(bad: BadFile) -> str:
    """One line of bad_files.jsonl."""
    return json.dumps({"path": str(bad.path), "reason": bad.reason}, ensure_ascii=False) + "\n"


def append_line(path: Path, line: str) -> None:
    """Append a line with a single write, since other processes append theirs; ExVideoError if the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # after a half-written line
                    line = "\n" + line
            file.write(line.encode())
    except OSError as error:
        raise ExVideoError(cannot_write(path, error)) from error


def _sentence(bad: BadFile) -> str:
    reason = bad.reason.rstrip(".")
    return reason if reason.startswith(bad.path.name) else f"{bad.path.name} {reason}"


def _results(listed: Sequence[Listed], folder: Path, workers: int) -> Iterator[tuple[Listed, _Key | None, _Found]]:
    """Results of the files, in listed order; new ones are written to the index as they come."""
    path = folder / INDEX_NAME
    known = _read_index(path)
    looked: dict[Path, tuple[_Key | None, _Found]] = {}  # a file listed twice, with two captions, is examined once
    pool = ThreadPoolExecutor(workers)
    try:
        results = pool.map(lambda file: _look(file, known), dict.fromkeys(entry.path for entry in listed))
        for entry in listed:
            if entry.path not in looked:
                looked[entry.path] = key, found = next(results)
                if key and key not in known:
                    append_line(path, _record(key, found))
            yield entry, *looked[entry.path]
    finally:
        pool.shutdown(cancel_futures=True)  # else a pass that stops early would examine all the rest


def _look(path: Path, known: Mapping[_Key, _Found]) -> tuple[_Key | None, _Found]:
    """The result of a file and its key; without a key it is not to be remembered."""
    try:
        status = path.stat()
    except OSError as error:
        return None, f"cannot be read: {error.strerror}"
    key = (str(path), status.st_size, status.st_mtime_ns)
    if key in known:
        return key, known[key]
    try:
        return key, examine(path)
    except VideoError as error:
        is_passing = isinstance(error.__cause__, OSError)  # of the disk or the network, and perhaps gone tomorrow
        return None if is_passing else key, str(error)


def _read_index(path: Path) -> dict[_Key, _Found]:
    try:
        lines = read_small(path, _MOST_BYTES).split("\n") if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise ExVideoError(f"{path} cannot be read ({error}): delete it, and all videos are examined again.") from error
    known: dict[_Key, _Found] = {}
    for line in lines:
        # not a line that an interrupted pass left half-written, or one that nobody here wrote
        with suppress(ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
            key, found = _from_record(json.loads(line))
            known[key] = found
    return known


def _record(key: _Key, found: _Found) -> str:
    record: dict[str, Any] = dict(zip(("path", "size", "mtime_ns"), key, strict=True))
    if isinstance(found, str):
        record["reason"] = found
    else:
        steps = [[step, len(list(same))] for step, same in groupby(b - a for a, b in pairwise(found.pts))]
        record |= {"width": found.width, "height": found.height, "time_base": str(found.time_base)}
        record |= {"first_pts": found.pts[0], "steps": steps}  # [pts to the next frame, how often in a row]
    return json.dumps(record) + "\n"


def _from_record(record: dict[str, Any]) -> tuple[_Key, _Found]:
    key = (str(record["path"]), _whole(record["size"]), _whole(record["mtime_ns"], -(2**63)))
    if "reason" in record:
        return key, quoted(str(record["reason"]), 500)
    pts = [_whole(record["first_pts"], -(2**63))]
    for step, times in record["steps"]:
        last = pts[-1] + _whole(step, 1) * _whole(times)
        if last >= 2**63 or len(pts) + times > _MOST_FRAMES:
            raise ValueError("no video is as long")
        pts += range(pts[-1] + step, last + 1, step)
    numerator, _, denominator = str(record["time_base"]).partition("/")
    time_base = Fraction(_whole(int(numerator), 1), _whole(int(denominator or 1), 1))
    width, height = _whole(record["width"], 1), _whole(record["height"], 1)
    return key, VideoFacts(width=width, height=height, pts=tuple(pts), time_base=time_base)


def _whole(number: object, least: int = 0) -> int:
    if type(number) is not int or not least <= number < 2**63:
        raise ValueError(f"{number!r} is no whole number from {least} on")
    return number


def _write_report(path: Path, bad: Sequence[BadFile]) -> None:
    with whole_file(path, ExVideoError) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text("".join(map(bad_file_line, bad)), encoding="utf-8")
