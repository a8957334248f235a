"""The numbers of a soak: what is said about them, and their picture."""

import json
import sys
from collections import Counter
from pathlib import Path
from statistics import mean

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WARM = 50  # prompts until everything has been used once
COLOURS = {"success": "#2166ac", "interrupted": "#e08214", "error": "#b2182b", "refused": "#878787"}
NAMES = {"success": "finished", "interrupted": "cancelled", "error": "failed", "refused": "refused"}


def summary(results):
    """What the table says, in bytes and counts, of the prompts after warm-up."""
    samples = results["samples"]
    warm = samples[WARM:] if len(samples) > 2 * WARM else samples[len(samples) // 3 :]
    rss = [sample["rss"] for sample in warm]
    third = max(1, len(warm) // 3)
    first, last = mean(rss[:third]), mean(rss[-third:])
    return {
        "outcomes": dict(Counter(sample["outcome"] for sample in samples)),
        "seconds": sum(sample["seconds"] for sample in samples),
        "first": rss[0],
        "last": rss[-1],
        "lowest": min(rss),
        "highest": max(rss),
        "growth": last - first,
        **{
            name: [warm[0][name], warm[-1][name], max(s[name] for s in warm)]
            for name in ("threads", "files", "children")
        },
    }


def table(results):
    """The summary as Markdown."""
    found, last = summary(results), results["samples"][-1]
    count = len(results["samples"]) - WARM
    ends = ", ".join(f"{found['outcomes'].get(name, 0)} {NAMES[name]}" for name in NAMES)
    rows = {
        "prompts": f"{len(results['samples'])} in {found['seconds'] / 60:.0f} minutes: {ends}",
        f"resident memory over the last {count}": f"{found['lowest'] / 1e6:.0f} to {found['highest'] / 1e6:.0f} MB",
        "the last third of them against the first, on average": f"{found['growth'] / 1e6:+.1f} MB",
        "threads: first, last, most of them": _three(found["threads"]),
        "open files": _three(found["files"]),
        "subprocesses": _three(found["children"]),
        "models that ComfyUI holds": _three([each["loaded"] for each in _ends(results["alive"])]),
        "networks alive": _three([each["objects"]["networks"] for each in _ends(results["alive"])]),
        "tensors alive": ", ".join(f"{each['tensor_bytes'] / 1e6:.0f} MB" for each in _ends(results["alive"])),
        "files in temp": f"{last['folders']['temp']['files']}",
        "log": f"{last['log'] / 1e3:.0f} kB",
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])


def _ends(alive):
    """First, last, and the one with the most."""
    return [alive[0], alive[-1], max(alive, key=lambda each: each["tensor_bytes"])]


def _three(values):
    return ", ".join(map(str, values))


def draw(results, path):
    """Memory, and below it threads, files and subprocesses, after each prompt."""
    samples = results["samples"]
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    memory, counts = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    numbers = [sample["number"] for sample in samples]
    memory.plot(numbers, [sample["rss"] / 1e6 for sample in samples], color="0.8", zorder=1)
    for outcome, colour in COLOURS.items():
        chosen = [sample for sample in samples if sample["outcome"] == outcome]
        values = [sample["rss"] / 1e6 for sample in chosen]
        memory.scatter([s["number"] for s in chosen], values, s=14, color=colour, label=NAMES[outcome], zorder=2)
    if len(samples) > 2 * WARM:
        memory.axvspan(0, WARM, color="0.95", zorder=0)
        memory.text(WARM / 2, memory.get_ylim()[1], "warm-up", ha="center", va="top", color="0.4", fontsize=9)
    memory.set_ylim(bottom=0)
    memory.set_ylabel("resident memory, MB")
    memory.legend(frameon=False, ncols=4, loc="lower right", fontsize=9)
    for name, label, style in (
        ("threads", "threads", "-"),
        ("files", "open files", "-"),
        ("children", "subprocesses", "-"),
    ):
        counts.plot(numbers, [sample[name] for sample in samples], style, label=label)
    counts.set_ylim(bottom=0)
    counts.set_xlabel("prompts to one server")
    counts.legend(frameon=False, ncols=3, loc="upper right", fontsize=9)
    for axes in (memory, counts):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(left=0)
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":  # draw again what an earlier run has measured
    source, target = map(Path, sys.argv[1:])
    found = json.loads(source.read_text(encoding="utf-8"))
    print(draw(found, target))
    print(table(found))
