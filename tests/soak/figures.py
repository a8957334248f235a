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
COUNTED = {"threads": "threads", "files": "open files", "children": "subprocesses"}
WAITING = "exvideo/unfinished/"  # folder of states
NAMES = {"success": "finished", "interrupted": "cancelled", "error": "failed", "refused": "refused"}


def summary(results):
    """What is said of the prompts after warm-up, in bytes and counts."""
    warm = _warm(results["samples"])
    rss = [sample["rss"] for sample in warm]
    third = max(1, len(warm) // 3)
    return {
        "prompts": len(warm),
        "lowest": min(rss),
        "highest": max(rss),
        "growth": mean(rss[-third:]) - mean(rss[:third]),
        **{name: [warm[0][name], warm[-1][name], max(each[name] for each in warm)] for name in COUNTED},
    }


def table(results):
    """The summary as Markdown."""
    samples, warm, last = results["samples"], _warm(results["alive"]), results["samples"][-1]
    found, ends = summary(results), Counter(sample["outcome"] for sample in samples)
    temp = last["folders"]["temp"]
    left = [name for name in results["others"] if not name.startswith(WAITING)]
    minutes = sum(sample["seconds"] for sample in samples) / 60
    rows = {
        "all prompts": f"{len(samples)} in {minutes:.0f} minutes: "
        + ", ".join(f"{ends[name]} {said}" for name, said in NAMES.items()),
        "resident memory": f"{_mb(found['lowest'])} to {_mb(found['highest'])} MB",
        "its mean over the last third, to that over the first": f"{_mb(found['growth']):+} MB",
        "heap in use": _span(each["heap"]["used"] for each in warm if each["heap"]),
        "of them tensors": _span(each["tensor_bytes"] for each in warm),
        "threads": _counts(found["threads"]),
        "open files": _counts(found["files"]),
        "subprocesses": _counts(found["children"]),
        "diffusion networks in memory": _counts([each["objects"]["networks"] for each in warm]),
        "saved states of interrupted runs": str(len(results["others"]) - len(left)),
        "other files than results in the output folder": str(len(left)),
        "temp folder, at the end": f"{temp['files']} files, {temp['bytes'] / 1e6:.1f} MB",
        "log, at the end": f"{last['log'] / 1e3:.0f} kB",
    }
    return "\n".join(
        [
            f"| | over the last {found['prompts']} |",
            "| --- | --- |",
            *(f"| {name} | {said} |" for name, said in rows.items()),
        ]
    )


def write(results, path):
    """As JSON, a line for each prompt."""
    text = json.dumps(results, separators=(",", ":"))
    path.write_text(text.replace('{"number"', '\n{"number"') + "\n", encoding="utf-8")


def _warm(records):
    """Those after warm-up, or of a short run the last two thirds."""
    return [each for each in records if each["number"] > min(WARM, records[-1]["number"] // 3)]


def _mb(size):
    return round(size / 1e6)


def _span(sizes):
    found = list(sizes) or [0]
    return f"{_mb(min(found))} to {_mb(max(found))} MB"


def _counts(values):
    return str(values[0]) if len(set(values)) == 1 else f"{min(values)} to {max(values)}"


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
    questions = [each for each in results["alive"] if each["heap"]]
    used = [each["heap"]["used"] / 1e6 for each in questions]
    memory.plot([each["number"] for each in questions], used, color="0.3", marker="_", label="asked for")
    memory.set_ylim(0, 1.15 * max(sample["rss"] for sample in samples) / 1e6)
    if len(samples) > 2 * WARM:
        memory.axvspan(0, WARM, color="0.95", zorder=0)
        memory.text(WARM / 2, memory.get_ylim()[1] * 0.98, "warm-up", ha="center", va="top", color="0.4", fontsize=9)
    memory.set_ylabel("MB in main memory")
    memory.legend(frameon=False, ncols=5, loc="lower right", fontsize=9)
    for name, label in COUNTED.items():
        counts.plot(numbers, [sample[name] for sample in samples], label=label)
    counts.set_ylim(bottom=0)
    counts.set_xlabel("prompts to one server")
    counts.legend(frameon=False, ncols=3, loc="center right", fontsize=9)
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
