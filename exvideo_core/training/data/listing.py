"""Which videos there are to train on: a folder, or a list in JSON, JSON lines or CSV.

`metadata.json` is the list that ExVideo's own script reads (DiffSynth 1.1.9, `ExVideo_svd_train.py`):
`[{"path": "relative/to/this/file.mp4"}, ...]`. The other kinds hold the same, with captions.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ...errors import ExVideoError
from ...files import quoted, read_small

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif")
_MOST_BYTES = 500_000_000  # of a list: some million videos with their captions
_LONGEST_PATH = 4000  # characters; the longest that Linux opens has 4095 bytes
PATH_NAMES = ("path", "video", "file_name")
CAPTION_NAMES = ("caption", "text", "prompt")

_Entry = tuple[str, object]  # where it stands, for messages; its values by name


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A video that is to be trained on; whether it exists and can be read shows later, in the index."""

    path: Path  # absolute
    caption: str = ""


def list_videos(source: Path) -> list[Listed]:
    """The videos of a folder, a list or a single file, each pair of path and caption once.

    A folder is searched with all its subfolders, in the order of the names, without what is hidden; `clip.txt` is the
    caption of the `clip.mp4` beside it. If it holds a metadata.json, .jsonl or .csv, that list is used instead.
    ExVideoError if there is no such source, it cannot be read, or it names no videos.
    """
    source = Path(os.path.abspath(source.expanduser()))
    if source.is_dir():
        lists = [source / f"metadata{suffix}" for suffix in _READERS if (source / f"metadata{suffix}").is_file()]
        videos = _from_list(lists[0]) if lists else _from_folder(source)
    elif not source.exists():
        raise ExVideoError(f"{source} does not exist: name a folder of videos, or a list (.json, .jsonl, .csv).")
    elif source.suffix.lower() in VIDEO_SUFFIXES:
        videos = [_with_sidecar(source)]
    else:
        videos = _from_list(source)
    if not videos:
        raise ExVideoError(
            f"{source} has no videos: put some there ({', '.join(VIDEO_SUFFIXES)}), or a list named metadata.json, "
            "metadata.jsonl or metadata.csv."
        )
    _check_names(videos)
    return list(dict.fromkeys(videos))


def _check_names(videos: Iterable[Listed]) -> None:
    for video in videos:
        name = str(video.path)
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ExVideoError(f"the name of {name[:_LONGEST_PATH]!a} is not UTF-8: rename it.") from error
        if len(name) > _LONGEST_PATH or not name.isprintable():
            raise ExVideoError(f"{name[:200]!a} cannot be the path of a video: it is too long, or not text.")


def _from_folder(folder: Path) -> list[Listed]:
    found = []
    for parent, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files = [Path(parent, name) for name in names if not name.startswith(".")]
        found += [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    return [_with_sidecar(file) for file in sorted(found)]


def _refuse(error: OSError) -> NoReturn:
    raise ExVideoError(f"the folder {error.filename} cannot be read: {error.strerror}.") from error


def _with_sidecar(video: Path) -> Listed:
    sidecar = video.with_suffix(".txt")
    return Listed(path=video, caption=" ".join(_text(sidecar).split()) if sidecar.is_file() else "")


def _from_list(file: Path) -> list[Listed]:
    read = _READERS.get(file.suffix.lower())
    if read is None:
        raise ExVideoError(
            f"{file} is neither a folder, nor a video ({', '.join(VIDEO_SUFFIXES)}), nor a list of videos "
            f"({', '.join(_READERS)})."
        )
    return [_listed(file, where, entry) for where, entry in read(file, _text(file))]


def _json(file: Path, text: str) -> Iterator[_Entry]:
    entries = _parsed(file, text, first_line=1)
    if not isinstance(entries, list):
        raise ExVideoError(f'{file} must hold a list, [{{"path": "clip.mp4"}}, ...], not {_kind(entries)}.')
    for number, entry in enumerate(entries, start=1):
        yield f"entry {number}", entry


def _json_lines(file: Path, text: str) -> Iterator[_Entry]:
    # not splitlines(): that also splits at characters which JSON allows within a caption
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _parsed(file, line, first_line=number)


def _csv(file: Path, text: str) -> Iterator[_Entry]:
    rows = csv.DictReader(text.splitlines(keepends=True), strict=True)
    try:
        columns = rows.fieldnames or []
        if not any(name in columns for name in PATH_NAMES):
            raise ExVideoError(
                f"{file} has the columns {quoted(', '.join(columns)) or '(none)'}, and one named path is needed (or "
                f"{' or '.join(PATH_NAMES[1:])}), in its first line; captions stand in {', '.join(CAPTION_NAMES)}."
            )
        for row in rows:
            if None in row:
                raise ExVideoError(
                    f"{file}, line {rows.line_num}: more values than the {len(columns)} columns of the first line. "
                    "Put captions that contain commas into double quotes."
                )
            yield f"line {rows.line_num}", row
    except csv.Error as error:
        raise ExVideoError(f"{file}, line {rows.reader.line_num}: not readable as CSV ({error}).") from error


_READERS: dict[str, Callable[[Path, str], Iterable[_Entry]]] = {".json": _json, ".jsonl": _json_lines, ".csv": _csv}


def _listed(file: Path, where: str, entry: object) -> Listed:
    if not isinstance(entry, dict):
        raise ExVideoError(f'{file}, {where}: expected {{"path": "clip.mp4"}}, not {_kind(entry)}.')
    path = _value(file, where, entry, PATH_NAMES)
    if not path:
        names = quoted(", ".join(map(str, entry)))
        raise ExVideoError(f"{file}, {where}: no path. It has {names or 'nothing'}; path is needed.")
    caption = _value(file, where, entry, CAPTION_NAMES)
    return Listed(path=Path(os.path.abspath(file.parent / path)), caption=caption.strip())


def _value(file: Path, where: str, entry: Mapping[str, object], names: tuple[str, ...]) -> str:
    """The first of these values that there is, or nothing."""
    for name in names:
        value = entry.get(name)
        if value is not None and not isinstance(value, str):
            raise ExVideoError(f"{file}, {where}: {name} must be text in double quotes, not {_kind(value)}.")
        if value:
            return value
    return ""


def _parsed(file: Path, text: str, first_line: int) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise ExVideoError(f"{file}, line {line}: not readable as JSON ({error.msg}, column {error.colno}).") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or lists in lists in lists
        raise ExVideoError(f"{file}, from line {first_line} on: not a list of videos ({error}).") from error


def _kind(value: object) -> str:
    names = {dict: "an object in braces", list: "a list", str: "text", type(None): "null", bool: "true or false"}
    return names.get(type(value), "a number")


def _text(file: Path) -> str:
    try:
        return read_small(file, _MOST_BYTES)
    except UnicodeDecodeError as error:
        raise ExVideoError(f"{file} is not text in UTF-8: save it again in that encoding.") from error
    except OSError as error:
        raise ExVideoError(f"{file} cannot be read: {error.strerror}.") from error
