"""Send many prompts to one ComfyUI server, and write down what it holds after each.

    python tests/soak/run.py                          200 prompts, ten minutes on two cores
    python tests/soak/run.py --prompts 30 --seed 3

The environment is handed to the server, so MALLOC_ARENA_MAX=2 or PYTHONMALLOC=malloc can be tried.
"""

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch

from exvideo_core.video.codecs import CONTAINERS
from host.comfyui_trees import NEWEST, OLDEST
from host.environment import Environment
from host.server import Server
from soak import figures, prompts
from soak.session import OBSERVER, Session

PACKS = {"ComfyUI-ExVideo": ROOT, **OBSERVER}
SHOWN = ("loaded", "objects", "all_objects", "tensor_bytes", "heap")
EVERY = 10  # prompts from one question to the server's own Python to the next


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=200, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what they are (%(default)s)")
    parser.add_argument("--comfyui", choices=(NEWEST, OLDEST), default=NEWEST, help="version (%(default)s)")
    parser.add_argument("--server", default="", help="further arguments for ComfyUI, such as --cache-classic")
    parser.add_argument("--output", type=Path, default=ROOT / "output", help="where the results go (%(default)s)")
    arguments = parser.parse_args(argv)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        results = soak(arguments, Path(folder))
    target = arguments.output / f"{date.today()}-soak.json"
    figures.write(results, target)
    print(figures.draw(results, target.with_suffix(".png")))
    print(figures.table(results))
    return 0


def soak(arguments, base):
    """All prompts, one after the other; the results as they are written."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    prompts.place(base)
    tree = Environment(ROOT).tree(arguments.comfyui)
    more = ("--cpu", *arguments.server.split())
    samples, alive = [], []
    with Server(Path(sys.executable), tree, base, packs=PACKS, arguments=more) as server:
        session = Session(server)
        started = session.alive()  # the thread that answers stays from here on
        for number, job in enumerate(prompts.jobs(arguments.prompts, arguments.seed), 1):
            sample = {"number": number, **session.do(job), **session.look()}
            samples.append(sample)
            print(_line(sample), flush=True)
            if number % EVERY == 0:
                alive.append({"number": number, **session.alive()})
                print("   ", {name: alive[-1][name] for name in SHOWN}, flush=True)
        session.client.post("/history", {"clear": True})
        session.client.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(3)
        emptied = {**session.alive(), **session.look()}
        trimmed = {**session.alive(trim=True), **session.look()}
    ends = {"started": started, "alive": alive, "emptied": emptied, "trimmed": trimmed}
    return {"setup": _setup(arguments), "samples": samples, **ends, "others": _others(base / "output")}


def _others(folder):
    """Files in the output folder that are no results."""
    results = {".png", *CONTAINERS}
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in results)
    return sorted(path.relative_to(folder).as_posix() for path in files if path.name != prompts.IN_THE_WAY)


def _line(sample):
    said = "" if sample["outcome"] == sample["expected"] else f"  (expected {sample['expected']}) {sample['error']}"
    memory = f"{sample['rss'] / 1e6:6.1f} MB, uss {sample['uss'] / 1e6:6.1f} MB"
    left = ", ".join(f"{sample[name]} {name}" for name in ("threads", "files", "children"))
    what = f"{sample['seconds']:5.1f} s  {sample['what']}: {sample['outcome']}{said}"
    return f"{sample['number']:3} {memory}, {left}, {what}"


def _setup(arguments):
    return {
        "date": str(date.today()),
        "comfyui": str(arguments.comfyui),
        "server": arguments.server,
        "prompts": arguments.prompts,
        "seed": arguments.seed,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "environment": {name: value for name, value in os.environ.items() if "MALLOC" in name or "OMP_" in name},
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server does not outlive this
    sys.exit(main())
