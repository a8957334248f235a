"""Compare engines on equal weights and inputs, interleaved in rounds of rotated order.

    python benchmarks/harness.py --task svd_unet --ext 128 --engines diffsynth,exvideo
    python benchmarks/harness.py --task cog_dit --layers 1 --frames 5 --dtype bfloat16
    python benchmarks/harness.py --task svd_unet --ext 128 --engines exvideo --memory

Reports medians over the rounds, their ratio to the first engine, and the largest error relative to it. `--memory` runs
each engine in a process of its own and reports its peak memory. An engine is `exvideo`, `diffsynth`,
`diffusers` or `module:attribute` (see `benchmarks/engine.py`); the references must be installed.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks import memory, tasks
from benchmarks.engine import Call, Config
from benchmarks.engines import engine

Row = dict[str, Any]


@torch.no_grad()
def compare(
    task: str, cfg: Config, names: Sequence[str], dtype: torch.dtype, device: str = "cpu", rounds: int = 3
) -> list[Row]:
    """Time engines against each other.

    Returns:
        a row for each: `wall_s` and `cpu_s` (median seconds of wall and process time), `wall_ratio` and `cpu_ratio` to
        the first engine, `error` (largest difference relative to its largest value), and on CUDA `peak_bytes`, which
        includes the shared weights.
    """
    weights, given = tasks.weights(task, cfg, dtype, device), tasks.inputs(task, cfg, dtype, device)
    calls = {name: engine(name).build(task, cfg, weights) for name in names}
    first: Tensor | None = None
    rows: dict[str, Row] = {}
    for name, call in calls.items():
        memory.reset(device)
        result = call(given).float().cpu()  # the first call is not timed
        first = result if first is None else first
        rows[name] = {"engine": name, "error": float((result - first).abs().max() / first.abs().max())}
        if device != "cpu":
            rows[name]["peak_bytes"] = memory.peak(device)
        del result
    times = interleaved(calls, given, device, rounds)
    for name, row in rows.items():
        for kind, index in (("wall", 0), ("cpu", 1)):
            row[f"{kind}_s"] = median(pair[index] for pair in times[name])
            row[f"{kind}_ratio"] = row[f"{kind}_s"] / median(pair[index] for pair in times[names[0]])
    return list(rows.values())


def interleaved(
    calls: Mapping[str, Call], given: Mapping[str, Tensor], device: str, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Wall and process seconds of every call; each round starts with another engine."""
    names = list(calls)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for index in range(rounds):
        first = index % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()
            memory.wait(device)
            start = time.perf_counter(), time.process_time()
            calls[name](given)
            memory.wait(device)
            times[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return times


@torch.no_grad()
def alone(task: str, cfg: Config, name: str, dtype: torch.dtype, device: str = "cpu") -> Row:
    """Peak memory of one call in a process that does nothing else.

    Returns:
        `weights_bytes`, `peak_bytes` (of the whole process; on CUDA of its tensors) and `beside_bytes`, the difference.
    """
    module, call = engine(name).network(task, cfg)
    weights = tasks.filled({key: weight.shape for key, weight in module.state_dict().items()}, dtype, device)
    module.load_state_dict(weights, assign=True)
    held = sum(weight.nbytes for weight in weights.values())
    given = tasks.inputs(task, cfg, dtype, device)
    memory.reset(device)
    call(given)
    peak = memory.peak(device)
    return {"engine": name, "weights_bytes": held, "peak_bytes": peak, "beside_bytes": peak - held}


def _isolated(arguments: argparse.Namespace, argv: Sequence[str]) -> list[Row]:
    """Run `alone` for each engine in a fresh process."""
    rows = []
    for name in arguments.engines.split(","):
        command = [sys.executable, __file__, *argv, "--engines", name, "--alone"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print one line for each engine, and optionally write JSON."""
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = arguments_of(argv)
    cfg = {name: getattr(arguments, name) for name in ("frames", "h", "w", "ext", "layers", "batch")}
    dtype = getattr(torch, arguments.dtype)
    if arguments.alone:
        print(json.dumps(alone(arguments.task, cfg, arguments.engines, dtype, arguments.device)))
        return 0
    if arguments.memory:
        rows = _isolated(arguments, argv)
    else:
        names = arguments.engines.split(",")
        rows = compare(arguments.task, cfg, names, dtype, arguments.device, arguments.rounds)
    for row in rows:
        print(
            "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )
    if arguments.json:
        settings = {"task": arguments.task, "cfg": cfg, "dtype": arguments.dtype, "device": arguments.device}
        arguments.json.write_text(json.dumps({**settings, "rows": rows}, indent=1), encoding="utf-8")
    return 0


def arguments_of(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=tasks.TASKS, required=True, help="see benchmarks/engine.py")
    parser.add_argument("--engines", default="diffsynth,exvideo", help="comma-separated (%(default)s)")
    parser.add_argument("--frames", type=int, default=8, help="frames, or latent frames of CogVideoX (%(default)s)")
    parser.add_argument("--h", type=int, default=16, help="latent height (%(default)s)")
    parser.add_argument("--w", type=int, default=16, help="latent width (%(default)s)")
    parser.add_argument("--ext", type=int, default=0, help="frames of the extension, 128; 0 is the base model")
    parser.add_argument("--layers", type=int, default=42, help="of CogVideoX's transformer (%(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="clips at once, of CogVideoX's transformer (%(default)s)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3, help="%(default)s")
    parser.add_argument("--memory", action="store_true", help="measure memory instead, one process for each engine")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
