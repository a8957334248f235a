"""Measure all promises about time and memory with one command.

    python benchmarks/run_all.py --device cuda --seconds 520    on an NVIDIA GPU: what fits into nine minutes
    python benchmarks/run_all.py --device cuda                  the same GPU: whole jobs, beside the references
    python benchmarks/run_all.py --device cpu                   on a CPU, one thread: counts, one call of each network
    python benchmarks/run_all.py --device cpu --narrow --seconds 300    the sections of `--seconds`, tried without a GPU

With `--seconds` everything is one process: the sections of `benchmarks/gpu/plan.py`, the most useful first, as many as
fit. Each number is a JSON line on disk before the next is measured; at the end of each section a Markdown page beside
it is written. It needs PyTorch, NumPy, safetensors, einops and Pillow; sections that need more are left out without it.

Else each measurement is a process of its own. After each, `benchmarks/results/<date>-<device>.json` and a Markdown page
beside it are updated; a second run on the same day measures only what is missing, or what `--only` names. References
run a few steps of a whole job, from which the whole is extrapolated; `--whole-references` runs all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

START = time.perf_counter()  # before PyTorch is imported, which takes some of the seconds
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.plan import PLAN
from benchmarks.gpu.record import Record
from benchmarks.gpu.sections import run
from benchmarks.report import page

Commands = dict[str, list[str]]
_REFERENCE_STEPS = 5

_UNET = ["harness.py", "--task", "svd_unet", "--ext", "128", "--engines"]
_ALL_ENGINES = "diffsynth,exvideo,diffusers"
CPU: Commands = {
    "counts": ["count.py", "--json", "--reference"],
    "unet_fp32": [*_UNET, "diffsynth,exvideo", "--rounds", "5"],
    "unet_bf16": [*_UNET, "diffsynth,exvideo", "--rounds", "5", "--dtype", "bfloat16"],
    "unet_memory": [*_UNET, "exvideo", "--memory"],
    "cogvideox_layer_fp32": [
        *("harness.py", "--task", "cog_dit", "--layers", "1", "--frames", "3", "--h", "30", "--w", "44"),
        *("--engines", _ALL_ENGINES, "--rounds", "9"),
    ],
    "svd_vae_fp32": [
        *("harness.py", "--task", "svd_vae", "--frames", "8", "--h", "8", "--w", "8"),
        *("--engines", _ALL_ENGINES, "--rounds", "5"),
    ],
    "cogvideox_vae_fp32": [
        *("harness.py", "--task", "cog_vae", "--frames", "3", "--h", "4", "--w", "6"),
        *("--engines", _ALL_ENGINES, "--rounds", "3"),
    ],
}  # fmt: skip


def cuda(reference_steps: int | None) -> Commands:
    """Commands on CUDA: a call of each network, then whole jobs."""
    few = [] if reference_steps is None else ["--steps", str(reference_steps)]
    clip = ["--frames", "128", "--h", "64", "--w", "64"]
    cog = ["harness.py", "--task", "cog_dit", "--frames", "33", "--h", "60", "--w", "90", "--dtype", "bfloat16"]
    calls = {
        "unet_fp16": [*_UNET, "diffsynth,exvideo", *clip, "--dtype", "float16", "--rounds", "3"],
        "cogvideox_bf16": [*cog, "--engines", _ALL_ENGINES, "--rounds", "2"],
        "svd_vae_fp16": [
            *("harness.py", "--task", "svd_vae", "--engines", _ALL_ENGINES, "--dtype", "float16"),
            *("--frames", "8", "--h", "128", "--w", "128"),
        ],
        "cogvideox_vae_bf16": [
            *("harness.py", "--task", "cog_vae", "--engines", _ALL_ENGINES, "--dtype", "bfloat16"),
            *("--frames", "33", "--h", "60", "--w", "90", "--rounds", "2"),
        ],
    }
    jobs = {
        f"{job}_{engine}": ["jobs.py", job, "--engine", engine, *([] if engine == "exvideo" else few)]
        for job, engines in (
            ("svd_512", ("exvideo", "diffsynth")),
            ("svd_1024_second_pass", ("exvideo", "diffsynth")),
            ("cog_129f", ("exvideo", "diffusers", "diffsynth")),
            ("cog_129f_streamed", ("exvideo",)),
        )
        for engine in engines
    }
    return {"counts": CPU["counts"], **calls, **jobs}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; returns how many measurements failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument(
        "--seconds", type=float, help="measure in this process, for so long: see benchmarks/gpu/plan.py"
    )
    parser.add_argument("--narrow", action="store_true", help="small networks and sizes, to try --seconds anywhere")
    parser.add_argument("--only", action="append", help="measure this again, or only this section; repeatable")
    parser.add_argument("--whole-references", action="store_true", help="run all steps of the references too")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (%(default)s); not for --device cuda")
    parser.add_argument("--out", "--folder", type=Path, default=HERE / "results", help="where results go")
    arguments = parser.parse_args(argv)
    if arguments.narrow and arguments.seconds is None:
        parser.error("--narrow is for --seconds")
    if arguments.seconds is None:
        return _in_processes(arguments)
    if arguments.device == "cpu" and not arguments.narrow:
        parser.error("the published sizes take hours on a CPU: add --narrow")
    return _in_this_process(arguments)


def _in_this_process(arguments: argparse.Namespace) -> int:
    """Run sections; returns how many failed, with checks that do not hold."""
    if arguments.device == "cpu":
        torch.set_num_threads(arguments.threads)
    file = arguments.out / f"{_stem(arguments.device)}-{arguments.seconds:g}s.jsonl"
    bench = Bench(arguments.device, Record(file, START), is_narrow=arguments.narrow)
    failed = run(PLAN, bench, arguments.seconds, arguments.only)
    print(f"{failed} sections failed or checks do not hold\n{file}\n{file.with_suffix('.md')}")
    return failed


def _in_processes(arguments: argparse.Namespace) -> int:
    """Measure what is missing; returns the number of failed measurements."""
    commands = CPU if arguments.device == "cpu" else cuda(None if arguments.whole_references else _REFERENCE_STEPS)
    file = arguments.out / f"{_stem(arguments.device)}.json"
    measured = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"results": {}}
    measured["machine"] = machine(arguments.device, arguments.threads)
    failed = 0
    for name, command in commands.items():
        if name not in arguments.only if arguments.only else name in measured["results"]:
            continue
        print(f"{name} ...", flush=True)
        try:
            measured["results"][name] = _measured(command, arguments.device, arguments.threads)
        except (subprocess.CalledProcessError, json.JSONDecodeError) as error:
            failed += 1
            print(f"{name} failed: {error}\n{getattr(error, 'stderr', '')[-2000:]}", flush=True)
        _write(file, measured)
    print(f"{file}\n{file.with_suffix('.md')}")
    return failed


def _measured(command: Sequence[str], device: str, threads: int) -> Any:
    """Run a script of this folder and parse its JSON output."""
    script, *rest = command
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "rows.json"
        if script != "count.py":
            rest += ["--device", device]
        if script == "harness.py":
            rest += ["--json", str(target)]
        environment = dict(os.environ)
        if device == "cpu":
            environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(HERE / script), *rest],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        )
        if script == "harness.py":
            return json.loads(target.read_text(encoding="utf-8"))
    return json.loads(done.stdout if script == "count.py" else done.stdout.splitlines()[-1])


def _write(file: Path, measured: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    file.with_suffix(".md").write_text(page(measured), encoding="utf-8")


def _stem(device: str) -> str:
    """The name of a result's file, without its suffix."""
    return f"{date.today().isoformat()}-{device_name(device)}"


def device_name(device: str) -> str:
    """The device's name as part of a file name."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return "-".join(name.lower().split())


def machine(device: str, threads: int) -> dict[str, Any]:
    """Hardware and versions that the measurements depend on."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = (line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line)
        cpu = next(models, cpu)
    info = {"cpu": cpu, "python": platform.python_version(), "torch": torch.__version__}
    if device == "cuda":
        return info | {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return info | {"threads": threads, "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None}


if __name__ == "__main__":
    sys.exit(main())
