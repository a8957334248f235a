"""`exvideo eval`: measures of clips that need no network, as a table, JSON and a plot."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import ExVideoError
from ..evaluation.measures import (
    CHUNK,
    LONGEST_SIDE,
    USUAL,
    ClipCurves,
    check_length,
    curves,
    measure,
    read_reduced,
    reduced_size,
)
from ..evaluation.plots import check_plot, plot_measures
from ..terminal.progress import Bar
from ..video import VideoInfo, probe
from ..whole_file import check_writable, whole_file

_Record = dict[str, Any]  # of a video, as in JSON
_EXPLANATIONS = {  # of the fields of Measures; black to white is 2
    "difference": "mean change from frame to frame: motion, flicker and noise together",
    "acceleration": "change of that change; steady motion is below 1, noise and flicker near 1.7",
    "loop": "steps to the nearest earlier frame; 0 returns to it, as a swing may",
    "freeze": "share of the frames that repeat the previous one",
    "contrast": "last 8 frames over first 8; below 1 fades, above 1 burns in",
    "drift": "mean colour, last 8 frames against first 8",
    "sharpness": "last 8 frames over first 8; below 1 grows soft, above 1 noisy or harsh",
}
_MEASURED_AT = (
    f"Measured at {LONGEST_SIDE} pixels or less on the longer side (averaged over areas), sharpness at the full size."
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "eval",
        help="measure finished videos: flicker, loops, freezing, fading, drift, blur",
        description="Measure finished videos without any network, and mark what is suspicious.\n"
        "The measures compare a video with itself; they do not know what it should show.",
        epilog=f"columns of the table:\n{_explanations()}\n\n{_MEASURED_AT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="mp4, mov, mkv, webm, gif, webp, ...")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there; - prints them instead of the table")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the curves of all videos")
    parser.add_argument(
        "--chunk", type=int, default=CHUNK, metavar="N", help="frames that make a point of the curves (%(default)s)"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    found = _checked(arguments)
    names = [path.name for path in found]
    records, along = {}, {}
    for path, info in found.items():
        name = path.name if names.count(path.name) == 1 else str(path)
        records[name], along[name] = _measured(path, info, arguments.chunk)
    if arguments.plot is not None:
        plot_measures(along, arguments.plot)
    if arguments.json is not None and arguments.json != "-":
        with whole_file(Path(arguments.json), ExVideoError) as temporary:
            temporary.write_text(_as_json(records) + "\n", encoding="utf-8")
    print(_as_json(records) if arguments.json == "-" else _table(records))
    return 0


def _checked(arguments: argparse.Namespace) -> dict[Path, VideoInfo]:
    """Information about each file; raises all errors that can be known before anything is measured."""
    if arguments.chunk < 2:
        raise ExVideoError(f"--chunk {arguments.chunk} is too short: a chunk has at least 2 frames.")
    if arguments.plot is not None:
        check_plot(arguments.plot)
    if arguments.json is not None and arguments.json != "-":
        check_writable(Path(arguments.json))
    found = {}
    for path in dict.fromkeys(arguments.videos):
        found[path] = probe(path)
        check_length(found[path].num_frames, path.name)
    return found


def _measured(path: Path, info: VideoInfo, chunk: int) -> tuple[_Record, ClipCurves]:
    with Bar(path.name, "frame") as reading:
        frames_T3HW, sharpness_T = read_reduced(path, info, reading)
    along = curves(frames_T3HW, chunk, sharpness_T)
    fields = ("starts", "difference", "drift", "contrast", "sharpness")
    record = {
        "file": str(path),
        "num_frames": info.num_frames,
        "fps": float(info.fps),
        "width": info.width,
        "height": info.height,
        "measured_at": reduced_size(info.width, info.height),
        "sharpness_at": (info.width, info.height),
        "measures": asdict(measure(frames_T3HW, sharpness_T)),
        "chunks": {"frames": chunk, **{name: getattr(along, name) for name in fields}},
    }
    return record, along


def _table(records: Mapping[str, _Record]) -> str:
    """A row for each video, and what the columns mean."""
    rows = [["video", "frames", *_EXPLANATIONS]]
    for video, record in records.items():
        cells = [f"{value:.3f}{_mark(name, value)}" for name, value in record["measures"].items()]
        rows.append([video, f"{record['num_frames']} ", *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))])
        for name, *cells in rows
    ]
    return "\n".join([*(line.rstrip() for line in lines), "", _explanations(), "", _MEASURED_AT])


def _mark(name: str, value: float) -> str:
    """A "!" for suspicious values, else a space."""
    low, high = USUAL.get(name, (-math.inf, math.inf))
    return " " if low <= value < high else "!"


def _explanations() -> str:
    lines = [f"  {name:<13} {text}{_limits(name)}" for name, text in _EXPLANATIONS.items()]
    return "\n".join([*lines, f"  {'!':<13} suspicious: look at the video"])


def _limits(name: str) -> str:
    low, high = USUAL.get(name, (0.0, math.inf))
    limits = [f"below {low:g}"] * (low > 0) + [f"from {high:g}"] * (high < math.inf)
    return f" (! {', '.join(limits)})" if limits else ""


def _as_json(records: Mapping[str, _Record]) -> str:
    return json.dumps({"videos": list(records.values())}, indent=2, allow_nan=False, ensure_ascii=False)
