"""Floating point operations and peak memory of every job, at the real sizes, on the meta device.

    python benchmarks/count.py                 a table
    python benchmarks/count.py --reference     with DiffSynth-Studio 1.1.9 and diffusers, if they are installed
    python benchmarks/count.py --json          for programs
    python benchmarks/count.py --job svd_512   one of them

One guidance branch, float16, without weights and inputs. A multiply-add counts as two operations.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn

from benchmarks import tasks
from benchmarks.engine import Config
from benchmarks.engines import ENGINES
from exvideo_core.estimate.counting import Counts, Elsewhere, count


@dataclass(frozen=True, kw_only=True)
class Job:
    """A network's call at one size.

    Attributes:
        task: see `engine`.
        cfg: sizes.
        most_bytes: limit for the peak.
        most_flops: limit for the operations.
    """

    task: str
    cfg: Config
    most_bytes: float | None = None
    most_flops: float | None = None


def _svd(frames: int, h: int, w: int, ext: int = 128, *, is_streamed: bool = False) -> Config:
    return {"frames": frames, "h": h, "w": w, "ext": ext, "is_streamed": is_streamed}


def _cog(frames: int, batch: int = 1) -> Config:
    return {"frames": frames, "h": 60, "w": 90, "batch": batch}


JOBS: Mapping[str, Job] = {
    "svd_512": Job(task="svd_unet", cfg=_svd(128, 64, 64), most_bytes=2.4e9, most_flops=196e12),
    "svd_512_streamed": Job(task="svd_unet", cfg=_svd(128, 64, 64, is_streamed=True), most_bytes=1.6e9),
    "svd_1024": Job(task="svd_unet", cfg=_svd(128, 128, 128), most_bytes=8.5e9),
    "svd_1024_streamed": Job(task="svd_unet", cfg=_svd(128, 128, 128, is_streamed=True), most_bytes=5.8e9),
    "svd_base_25f": Job(task="svd_unet", cfg=_svd(25, 72, 128, ext=0)),
    "svd_bench": Job(task="svd_unet", cfg=_svd(8, 16, 16)),
    "svd_vae_512": Job(task="svd_vae", cfg=_svd(8, 64, 64)),
    "svd_vae_1024": Job(task="svd_vae", cfg=_svd(8, 128, 128), most_bytes=4e9),
    "svd_encode_512": Job(task="svd_encode", cfg=_svd(1, 64, 64)),
    "svd_encode_1024": Job(task="svd_encode", cfg=_svd(1, 128, 128)),
    "cog_129f": Job(task="cog_dit", cfg=_cog(33), most_bytes=1.9e9),
    "cog_129f_pair": Job(task="cog_dit", cfg=_cog(33, batch=2)),
    "cog_49f": Job(task="cog_dit", cfg=_cog(13)),
    "cog_vae_decode": Job(task="cog_vae", cfg=_cog(33), most_bytes=5e9),
    "cog_vae_encode": Job(task="cog_encode", cfg=_cog(129)),
}


def count_job(job: Job, engine: str = "exvideo", dtype: torch.dtype = torch.float16) -> Counts:
    """Counts of one call.

    Raises:
        ModuleNotFoundError: the engine is not installed.
    """
    network, call = ENGINES[engine]().network(job.task, job.cfg)
    # some parameters of the references are on the CPU anyway; nn.Module's `to`, because diffusers' prints a warning
    nn.Module.to(network, "meta", dtype)
    if job.cfg.get("is_streamed"):
        network.offload_skip = Elsewhere  # a stand-in for host memory on the meta device
    given = tasks.inputs(job.task, job.cfg, dtype, "meta")
    return count(lambda: call(given))


def main(argv: Sequence[str] | None = None) -> int:
    """Count the jobs and print a table or JSON."""
    arguments = arguments_of(sys.argv[1:] if argv is None else argv)
    engines = list(ENGINES) if arguments.reference else ["exvideo"]
    rows = {name: _counted(JOBS[name], engines) for name in arguments.job or JOBS}
    print(json.dumps(rows, indent=1) if arguments.json else _table(rows, engines))
    return 0


def arguments_of(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=JOBS, action="append", help="only this one; repeatable")
    parser.add_argument("--reference", action="store_true", help="count DiffSynth and diffusers too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(argv)


def _counted(job: Job, engines: Sequence[str]) -> dict[str, dict[str, object]]:
    row: dict[str, dict[str, object]] = {}
    for engine in engines:
        if engine != "exvideo" and job.cfg.get("is_streamed"):
            continue  # the references have no skip offload
        try:
            counts = count_job(job, engine)
        except ModuleNotFoundError as error:
            sys.stderr.write(f"{engine} is left out: {error}\n")
            continue
        row[engine] = {"total_flops": counts.total_flops, **asdict(counts)}
    return row


def _table(rows: Mapping[str, Mapping[str, Mapping[str, object]]], engines: Sequence[str]) -> str:
    lines = [["job", *(f"{engine} TFLOP" for engine in engines), *(f"{engine} GB" for engine in engines)]]
    for name, row in rows.items():
        cells = [_cell(row.get(engine, {}).get(key), unit) for key, unit in _COLUMNS for engine in engines]
        lines.append([name, *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


_COLUMNS = (("total_flops", 1e12), ("peak", 1e9))


def _cell(value: object, unit: float) -> str:
    return f"{value / unit:.2f}" if isinstance(value, int) else "-"


if __name__ == "__main__":
    sys.exit(main())
