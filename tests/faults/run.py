"""Inject all faults and write the table of docs/reliability.md: `python tests/faults/run.py`.

With `--every 40` only every 40th place, and the table goes to the terminal instead.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch

from faults.outcomes import HARM, Count, Fault
from faults.registry import comfyui_faults, core_faults

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: written by tests/faults/run.py -->", "<!-- end of faults -->"


def injected(faults: Sequence[Fault], stride: int) -> list[tuple[Fault, Count]]:
    """Every fault with its counts."""
    rows = []
    for fault in faults:
        begun = time.monotonic()
        count = fault.inject(stride)
        rows.append((fault, count))
        line = f"{fault.name}, {fault.where}: {count.injections} in {time.monotonic() - begun:.0f} s"
        print(line, dict(count.ends), dict(count.harm) or "", flush=True)
        for example in count.examples[:3]:
            print("   ", example[:600], flush=True)
    return rows


def table(rows: Sequence[tuple[Fault, Count]]) -> str:
    """In Markdown, with a sum below."""
    head = ["fault", "where", "times", "what happened", *HARM]
    lines = [head, ["---", "---", "---:", "---", *["---:"] * len(HARM)]]
    total = Count()
    for fault, count in rows:
        if not count.injections:
            lines.append([fault.name, fault.where, "0", "not possible on this system", *["0"] * len(HARM)])
            continue
        lines.append([fault.name, fault.where, *_cells(count)])
        total.injections += count.injections
        total.ends += count.ends
        total.harm += count.harm
    lines.append(["**sum**", "", *_cells(total)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(count: Count) -> list[str]:
    ends = ", ".join(f"{number:,} {end}" for end, number in count.ends.most_common())
    return [f"{count.injections:,}", ends, *(f"{count.harm[kind]:,}" for kind in HARM)]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 1 if any fault does harm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="only every so-many-th place, and no page is written")
    parser.add_argument("--only", choices=["core", "comfyui"], help="one half, and no page is written")
    parser.add_argument("--named", default="", help="only rows that hold this, and no page is written")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # of each retry
    warnings.simplefilter("ignore")
    begun = time.monotonic()
    faults = [] if arguments.only == "comfyui" else core_faults()
    faults += [] if arguments.only == "core" else comfyui_faults()
    named = [fault for fault in faults if arguments.named in f"{fault.name}, {fault.where}"]
    rows = injected(named, arguments.every)
    minutes = (time.monotonic() - begun) / 60
    text = f"{table(rows)}\n\nOne thread of a CPU took {minutes:.0f} minutes for it."
    if arguments.every == 1 and not arguments.only and not arguments.named:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
        PAGE.write_text(f"{before}\n{text}\n{after}", encoding="utf-8")
    else:
        print(text)
    return int(any(count.harm for _, count in rows))


if __name__ == "__main__":
    sys.exit(main())
