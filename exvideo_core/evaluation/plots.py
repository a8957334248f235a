"""Plots: measures along clips, and the losses of a training run.

Needs matplotlib, imported only when something is drawn, and without its global state (no pyplot). A file is made in a
hidden folder next to its place and moved there when it is complete.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ExVideoError
from ..whole_file import check_writable, whole_file
from .measures import USUAL, ClipCurves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = {  # fields of ClipCurves
    "difference": ("Difference", "mean change from frame to frame"),
    "drift": ("Drift", "mean colour against the first chunk"),
    "contrast": ("Contrast", "over that of the first chunk"),
    "sharpness": ("Sharpness", "over that of the first chunk"),
}
_LINE_STYLES = ("-", "--", ":", "-.")  # the next one when the ten colours are used up
_HELD_OUT = {  # columns of the held-out losses; colour, and what it is called
    "all": ("0.35", "all frames"),
    "within": ("C0", "frames of the base's own length"),
    "beyond": ("C1", "frames beyond it"),
}
_SMOOTHING = 0.05  # of all steps, that the smoothed loss looks back


def check_plot(path: Path) -> None:
    """Raise ExVideoError now if no plot could be written there: for use before minutes of work."""
    _new_figure(1, 1)
    if path.suffix.lower() != ".png":
        raise ExVideoError(f"the plot is a PNG picture: {path.name} has to end in .png.")
    check_writable(path)


def plot_measures(named: Mapping[str, ClipCurves], path: Path) -> None:
    """Draw four panels (difference, drift, contrast, sharpness) over the frames, a line for each clip, into a PNG.

    The range of `measures.USUAL` is shaded. ExVideoError if matplotlib is missing, or the file cannot be written.
    """
    if not named:
        raise ValueError("there is no clip to plot")
    check_plot(path)
    columns = max(1, min(4, len(named), 120 // (8 + max(map(len, named)))))  # of the legend: 120 letters wide
    rows = -(-len(named) // columns)
    figure = _new_figure(10, 6.6 + 0.25 * rows)
    panels = figure.subplots(2, 2, sharex=True).flat
    for axes, (field, (title, unit)) in zip(panels, _PANELS.items(), strict=True):
        for index, (name, curves) in enumerate(named.items()):
            style = _LINE_STYLES[index // 10 % len(_LINE_STYLES)]
            values = getattr(curves, field)
            axes.plot(curves.middles, values, f"C{index % 10}{style}", marker="o", markersize=3.5, label=_label(name))
        _decorate(axes, title, unit)
        _shade_usual(axes, field)
    for axes in figure.axes[2:]:
        axes.set_xlabel("frame")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    _save(figure, path)


def plot_training(log_csv: Path, held_out_csv: Path | None, path: Path) -> None:
    """Draw the training loss, raw and smoothed, and in a second panel the held-out losses, into a PNG.

    Args:
        log_csv: columns step, loss and any others; a row a step.
        held_out_csv: columns step, all, within (frames of the base's own length) and beyond (later frames); an empty
            field is a missing loss. None or no rows leave the panel out.
        path: of the PNG.

    Raises:
        ExVideoError: matplotlib is missing, a file lacks columns or numbers, or the plot cannot be written.
    """
    log = _read_columns(log_csv, ("step", "loss"))
    if not log["step"]:
        raise ExVideoError(f"{log_csv} holds no steps yet, so there is nothing to plot.")
    held_out = _read_columns(held_out_csv, ("step", *_HELD_OUT)) if held_out_csv is not None else {"step": []}
    panels = 2 if held_out["step"] else 1
    figure = _new_figure(10, 3.4 * panels + 0.4)
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    _draw_loss(axes[0], log["step"], log["loss"])
    if held_out["step"]:
        _draw_held_out(axes[1], held_out)
    axes[-1].set_xlabel("step")
    _save(figure, path)


def _draw_loss(axes: Axes, steps: Sequence[float], losses: Sequence[float]) -> None:
    axes.plot(steps, losses, color="C0", linewidth=0.6, alpha=0.4, label="each step")
    axes.plot(steps, _smoothed(losses), color="C0", linewidth=2, label="smoothed")
    _decorate(axes, "Training loss", "")
    axes.legend(frameon=False)
    finite = sorted(filter(math.isfinite, losses))
    if finite:  # outliers would flatten the curve
        low, high = finite[0], finite[min(len(finite) - 1, int(0.99 * len(finite)))]
        margin = 0.1 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)


def _draw_held_out(axes: Axes, columns: Mapping[str, Sequence[float]]) -> None:
    for name, (colour, label) in _HELD_OUT.items():
        known = [(step, loss) for step, loss in zip(columns["step"], columns[name], strict=True) if math.isfinite(loss)]
        if known:
            width = 1.2 if name == "all" else 2
            axes.plot(*zip(*known, strict=True), color=colour, marker="o", markersize=4, linewidth=width, label=label)
    _decorate(axes, "Loss on held-out clips", "")
    axes.legend(frameon=False)


def _smoothed(values: Sequence[float]) -> list[float]:
    """Exponential moving average over the last steps, unbiased from the first; NaN and Inf are skipped."""
    weight = 1 / max(1.0, _SMOOTHING * len(values))
    mean, seen, result = 0.0, 0.0, []
    for value in values:
        if math.isfinite(value):
            mean += weight * (value - mean)
            seen += weight * (1 - seen)
        result.append(mean / seen if seen else math.nan)
    return result


def _read_columns(path: Path, names: Sequence[str]) -> dict[str, list[float]]:
    """Columns of numbers out of a CSV file with a header; an empty field is NaN."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows, header = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ExVideoError(f"{path} cannot be read as a table ({error}).") from error
    if missing := [name for name in names if name not in header]:
        raise ExVideoError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(header) or 'none'}.")
    try:
        return {name: [float(row[name] or "nan") for row in rows] for name in names}
    except ValueError as error:
        raise ExVideoError(f"{path} holds something else than numbers ({error}).") from error


def _new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that draws itself without a screen."""
    try:
        from matplotlib.figure import Figure  # optional; slow to import
    except ModuleNotFoundError as error:
        raise ExVideoError("the plot needs matplotlib: pip install 'exvideo[train]'") from error
    figure = Figure(figsize=(width, height), dpi=120)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)  # inches
    return figure


def _decorate(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_title(unit, loc="right", fontsize=9, color="0.35")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _shade_usual(axes: Axes, field: str) -> None:
    """Shade the usual range, and show at least all of it; a panel without one starts at 0."""
    low, high = axes.get_ylim()
    if field in USUAL:
        usual_low, usual_high = USUAL[field]
        margin = 0.1 * (usual_high - usual_low)
        axes.axhspan(usual_low, usual_high, color="C2", alpha=0.08, linewidth=0)
        axes.set_ylim(min(low, usual_low - margin) if usual_low else 0, max(high, usual_high + margin))
    else:
        axes.set_ylim(0, max(high, 1e-3))


def _label(name: str) -> str:
    """The name as matplotlib shows it: it drops labels that start with _, and reads $ as mathematics."""
    name = name.replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def _save(figure: Figure, path: Path) -> None:
    with whole_file(path, ExVideoError) as temporary:
        figure.savefig(temporary, format="png")
