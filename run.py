#!/usr/bin/env python3
"""One command for newcomers: see the pack work, try it in ComfyUI, or test it.

    python run.py demo              make a video of a picture and one of a sentence with the bundled demo models;
                                    --model svd or --model cogvideox makes one, --prompt "..." says what to show
    python run.py serve [--port N]  start ComfyUI with this pack, and open it in the browser
    python run.py test --quick      linters, types and the tests that need no server, browser or fuzzer: four minutes
    python run.py test [ARGS...]    linters, types and all tests; ARGS go to pytest

The first call installs everything it needs, ComfyUI included, into `.venv`. Needs Python 3.10 or newer, nothing else.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if sys.version_info < (3, 10):  # noqa: UP036 (an older one must be told)
    sys.exit(f"run.py needs Python 3.10 or newer, this is {sys.version.split()[0]}")

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tests"))
from host.client import Client, Prompt
from host.environment import Environment
from host.errors import HostError
from host.graph import ObjectInfo, read_graph, to_prompt
from host.server import Server

PACK = "ComfyUI-ExVideo"
BASE = ROOT / "output" / "demo"  # the server's models, input, output and user folders
PICTURE = ROOT / "samples" / "astronaut.png"


@dataclass(frozen=True)
class Demo:
    """What is shown of a model.

    Attributes:
        workflow: name of the example that is run.
        inputs: what is changed in it, by class or title of the nodes: the small bundled model in place of the real one,
            at the size it was made for.
    """

    workflow: str
    inputs: Mapping[str, Mapping[str, Any]]


PROMPT = "Prompt"  # title of the node with the sentence; the negative one is of the same class
DEMOS = {
    "svd": Demo(
        "exvideo_svd_128f",
        {
            "LoadImage": {"image": PICTURE.name},
            "ExVideoSVDLoader": {"checkpoint": "demo svd", "extension": "demo 128 frames"},
            "ExVideoSVDConditioning": {"width": 128, "height": 128},
            "ExVideoSampler": {"steps": 12, "guidance_min": 1.0, "guidance_max": 1.0, "contrast": 1.0},
        },
    ),
    "cogvideox": Demo(
        "exvideo_cogvideox_129f",
        {
            "ExVideoCogVideoXLoader": dict.fromkeys(("transformer", "text_encoder", "vae"), "demo cogvideox"),
            "ExVideoLoRAApply": {"lora": "demo 129 frames"},
            "ExVideoCogVideoXLatent": {"width": 96, "height": 96},
            PROMPT: {"text": "a red circle swings on white"},
            "ExVideoSampler": {"steps": 20, "guidance_min": 3.0, "guidance_max": 3.0},
        },
    ),
}
WORDS = (
    "red green blue yellow, circle square triangle, swings floats bounces slides 'circles left' 'circles right', "
    "black white gray purple: a blue square floats on gray"
)
CONTACT_SHEET = """
import sys
from exvideo_core.video import contact_sheet
contact_sheet(sys.argv[1], sys.argv[2], columns=8, rows=4)
"""
# A file's tests share their server and models, and tests/sharing.py says which files do.
WORKERS = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
QUICK = ("-m", "not (slow or network or comfyui or browser or fuzz or full)")
CHECKS = (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="demo | serve | test")
    demo = verbs.add_parser("demo", help="make videos with the bundled demo models")
    demo.add_argument("--model", choices=(*DEMOS, "all"), default="all", help="the default is all of them")
    demo.add_argument("--prompt", help=f"the sentence for cogvideox; it knows {WORDS}")
    serve = verbs.add_parser("serve", help="start ComfyUI with this pack")
    serve.add_argument("--port", type=int, default=8188)
    serve.add_argument("--gpu", action="store_true", help="let ComfyUI use the graphics card; the default is the CPU")
    test = verbs.add_parser("test", help="linters, types and tests; further arguments go to pytest", add_help=False)
    test.add_argument("--quick", action="store_true", help="without what needs a server, a browser or a fuzzer")
    options, rest = parser.parse_known_args()
    if rest and options.verb != "test":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if options.verb == "demo" and options.prompt is not None and options.model == "svd":
        parser.error("--prompt is for --model cogvideox; svd starts from a picture")
    os.environ.setdefault("OMP_NUM_THREADS", str(few_threads()))  # of every process started from here
    environment = Environment(ROOT)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: the server is stopped as well
    try:
        environment.prepare(for_tests=options.verb == "test")
        if options.verb == "demo":
            return run_demos(environment, chosen_demos(options.model, options.prompt))
        if options.verb == "serve":
            return run_server(environment, options.port, use_gpu=options.gpu)
        return run_tests(environment, [*(QUICK if options.quick else ()), *rest])
    except HostError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def chosen_demos(model: str, sentence: str | None) -> dict[str, Demo]:
    """The demos to run, by model; with the person's own sentence, if there is one."""
    demos = dict(DEMOS)
    if sentence is not None:
        speaking = demos["cogvideox"]
        demos["cogvideox"] = replace(speaking, inputs={**speaking.inputs, PROMPT: {"text": sentence}})
    return demos if model == "all" else {model: demos[model]}


def run_demos(environment: Environment, demos: Mapping[str, Demo]) -> int:
    """Make a video with each of the bundled models, through a ComfyUI server."""
    place_picture()
    shown = []
    with start_comfyui(environment) as server:
        client = Client(server.url)
        for model, demo in demos.items():
            print(f"making the {model} demo ...", flush=True)
            prompt = demo_prompt(demo, client.object_info())
            run = client.run(prompt, timeout=3600, on_progress=Progress(prompt))
            videos = [BASE / file["type"] / file["subfolder"] / file["filename"] for file in run.files]
            if not videos:
                raise HostError(f"the workflow saved no video; see {server.log}")
            shown.append((model, run.seconds, videos[0]))
    for model, seconds, video in shown:
        sheet = video.with_suffix(".png")
        make_contact_sheet(environment, video, sheet)
        print(f"\n{model}: done in {seconds:.0f} s\nvideo:         {video}\ncontact sheet: {sheet}")
    return 0


def run_server(environment: Environment, port: int, *, use_gpu: bool) -> int:
    """Run ComfyUI with the pack until Ctrl-C."""
    place_picture()
    with start_comfyui(environment, port=port, arguments=[] if use_gpu else ["--cpu"]) as server:
        print(f"ComfyUI with {PACK}: {server.url}\nfolders: {BASE}\nlog:     {server.log}\nCtrl-C ends it", flush=True)
        webbrowser.open(server.url)
        assert server.process is not None  # started by the context manager
        return server.process.wait()


@contextmanager
def start_comfyui(
    environment: Environment, *, port: int = 0, arguments: Sequence[str] = ("--cpu",)
) -> Iterator[Server]:
    """A running server with this pack in it."""
    print("starting ComfyUI ...", flush=True)
    server = Server(environment.python, environment.tree(), BASE, packs={PACK: ROOT}, port=port, arguments=arguments)
    with server:
        if failed := server.failed_imports():
            raise HostError(f"ComfyUI could not import the pack, see {server.log}: {failed[0]}")
        yield server


def run_tests(environment: Environment, arguments: list[str]) -> int:
    """Run linters, types and tests; all of them run, also when one has failed."""
    # The tests start a hundred processes: none of them compiles the sources again, and idle threads do not spin.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    failed = 0
    for check in CHECKS:
        print(f"== {' '.join(check)}", flush=True)
        failed |= subprocess.run([str(environment.python), "-m", *check], cwd=ROOT).returncode
    if failed:
        print("== a check above FAILED; the tests run all the same", flush=True)
    tests = subprocess.run([str(environment.python), "-m", "pytest", *WORKERS, *arguments], cwd=ROOT)
    return tests.returncode or failed


def few_threads() -> int:
    """Threads for each process: half of the cores, because OpenMP spins for many times longer on busy ones."""
    return max(1, min(4, (os.cpu_count() or 1) // 2))


def place_picture() -> None:
    """Put the demo's picture where Load Image finds it."""
    folder = BASE / "input"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(PICTURE, folder / PICTURE.name)


def demo_prompt(demo: Demo, object_info: ObjectInfo) -> Prompt:
    """The demo's workflow with its changes in it."""
    prompt = to_prompt(read_graph(ROOT / "workflows" / f"{demo.workflow}.json"), object_info)
    for name, changes in demo.inputs.items():
        nodes = [node for node in prompt.values() if name in (node["class_type"], node["_meta"]["title"])]
        if not nodes:
            raise HostError(f"{demo.workflow} has no node {name}, which the demo changes")
        for node in nodes:
            if unknown := changes.keys() - node["inputs"].keys():
                raise HostError(f"{name} has no input named {', '.join(sorted(unknown))}, which the demo sets")
            node["inputs"].update(changes)
    return prompt


def make_contact_sheet(environment: Environment, video: Path, sheet: Path) -> None:
    command = [str(environment.python), "-c", CONTACT_SHEET, str(video), str(sheet)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise HostError(f"the video {video} is there, but its contact sheet failed:\n{done.stderr[-2000:]}")


class Progress:
    """Prints how far each node is: one line that changes in a terminal, a few lines in a log."""

    def __init__(self, prompt: Prompt) -> None:
        self.titles = {node_id: node["_meta"]["title"] for node_id, node in prompt.items()}
        self.shown, self.time = "", 0.0

    def __call__(self, node_id: str, done: int, steps: int) -> None:
        text = f"{self.titles.get(node_id, node_id)}: {done}/{steps}"
        in_terminal = sys.stdout.isatty()
        is_due = in_terminal or done == steps or time.monotonic() > self.time + 5
        if text == self.shown or not is_due:
            return
        self.shown, self.time = text, time.monotonic()
        print(f"\r{text:60}" if in_terminal else text, end="" if in_terminal else "\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
