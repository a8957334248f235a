"""Draw the figures of docs/performance.md from a results file of `run_all.py`.

python benchmarks/plot.py benchmarks/results/<date>-cpu.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"
Row = Mapping[str, Any]

ENGINES = {
    "exvideo": ("this core", "#2166ac"),
    "diffsynth": ("DiffSynth-Studio", "#bdbdbd"),
    "diffusers": ("diffusers", "#e0c9a6"),
}
_PARTS = {
    "attention": ("attention", "#b2182b"),
    "convolution": ("convolutions", "#2166ac"),
    "product": ("matrix products", "#92c5de"),
}
JOBS = {
    "svd_512": "SVD, 128 frames 512x512",
    "svd_512_streamed": "  skips in main memory",
    "svd_1024": "SVD, 128 frames 1024x1024",
    "svd_1024_streamed": "  skips in main memory",
    "svd_vae_1024": "SVD, decoding at 1024x1024",
    "cog_129f": "CogVideoX, 129 frames 720x480",
    "cog_vae_decode": "CogVideoX, decoding them",
}
_TIMES = {
    "unet_fp32": "SVD UNet, fp32",
    "unet_bf16": "SVD UNet, bf16",
    "svd_vae_fp32": "SVD decoder, fp32",
    "cogvideox_layer_fp32": "CogVideoX layer, fp32",
    "cogvideox_vae_fp32": "CogVideoX decoder, fp32",
}


def memory(counts: Mapping[str, Row]) -> Figure:
    """Peak memory of each engine, without weights."""
    figure, axes = _figure(5.0)
    jobs = [name for name in JOBS if name in counts]
    for number, (engine, (label, colour)) in enumerate(ENGINES.items()):
        values = [counts[name].get(engine, {}).get("peak", 0) / 1e9 for name in jobs]
        bars = axes.barh(
            [place + 0.27 * (number - 1) for place in range(len(jobs))], values, 0.27, label=label, color=colour
        )
        axes.bar_label(bars, [f"{value:.1f}" if value else "" for value in values], padding=3, fontsize=8)
    _rows(axes, [JOBS[name] for name in jobs], "GB beside the weights, float16, one branch of guidance")
    return figure


def operations(counts: Mapping[str, Row]) -> Figure:
    """Floating point operations by kind, of this core and of DiffSynth."""
    figure, axes = _figure(3.2)
    rows = [
        (f"{JOBS[name]}\n{ENGINES[engine][0]}", counts[name][engine]["flops"])
        for name in ("svd_512", "svd_1024", "cog_129f")
        for engine in ("exvideo", "diffsynth")
        if engine in counts[name]
    ]
    left = [0.0] * len(rows)
    for part, (what, colour) in _PARTS.items():
        values = [flops.get(part, 0) / 1e12 for _, flops in rows]
        axes.barh(range(len(rows)), values, 0.7, left=left, label=what, color=colour)
        left = [start + value for start, value in zip(left, values, strict=True)]
    for place, value in enumerate(left):
        axes.text(value, place, f" {value:.0f}", va="center", fontsize=8)
    _rows(axes, [label for label, _ in rows], "TFLOP of one call of the network")
    return figure


def times(results: Mapping[str, Any]) -> Figure:
    """CPU time relative to DiffSynth's."""
    figure, axes = _figure(3.0)
    names = [name for name in _TIMES if name in results]
    for number, (engine, (label, colour)) in enumerate(ENGINES.items()):
        values = [_ratio(results[name]["rows"], engine) for name in names]
        places = [place + 0.27 * (number - 1) for place in range(len(names))]
        bars = axes.barh(places, values, 0.27, label=label, color=colour)
        axes.bar_label(bars, [f"{value:.2f}" if value else "" for value in values], padding=3, fontsize=8)
    _rows(axes, [_TIMES[name] for name in names], "CPU time of one call, to that of DiffSynth-Studio (one thread)")
    return figure


def _ratio(rows: Sequence[Row], engine: str) -> float:
    of = {row["engine"]: row["cpu_s"] for row in rows}
    return of.get(engine, 0) / of["diffsynth"]


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _rows(axes: Axes, labels: Sequence[str], what: str) -> None:
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(what)
    axes.margins(x=0.08)
    axes.figure.legend(frameon=False, loc="outside upper right", ncols=3, fontsize=9)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figures that the file has measurements for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where pictures go (%(default)s)")
    arguments = parser.parse_args(argv)
    results = json.loads(arguments.results.read_text(encoding="utf-8"))["results"]
    figures = {"memory": memory(results["counts"]), "operations": operations(results["counts"])}
    if any(name in results for name in _TIMES):
        figures["times"] = times(results)
    for name, figure in figures.items():
        target = arguments.folder / f"performance_{name}.png"
        figure.savefig(target, dpi=110)
        print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
