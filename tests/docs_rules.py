"""How each kind of command in the documentation is checked; a command that no rule knows is an error.

Ours run, made small. What would install something, start a server or reach the internet is checked for what can be
wrong with it: its options, its files, its names and versions.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import runpy
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import docs_sandbox
import pytest
import yaml
from docs_pages import ROOT, words
from packaging.requirements import Requirement
from torch.distributed.run import get_args_parser

import run as run_py
from benchmarks import approximations as approximations_py
from exvideo_core.cli import download, main
from host.comfyui_trees import NEWEST
from host.environment import Environment

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Built for the machine's own GPU, so the test environment does not have them.
BUILT_ON_THE_SPOT = {"deepspeed", "flash-attn"}
# where the text leaves out what an earlier command shows
LEFT_OUT = {
    ("generate",): ["svd", "..."],
    ("generate", "svd"): ["--image", "cat.png", "--checkpoint", "svd_xt.safetensors"],
    ("generate", "cogvideox"): [
        *(word for part in ("--transformer", "--text-encoder", "--vae") for word in (part, "CogVideoX-5b")),
        *("--prompt", "A sailing boat."),
    ],
}
SMALL = {
    model: [f"--{name.replace('num_inference_', '').replace('num_', '')}={value}" for name, value in sizes.items()]
    for model, sizes in docs_sandbox.SMALL.items()
}


class Accepted(Exception):  # noqa: N818  a parser took the words; nothing went wrong
    """Ends a program where its work would begin."""


def run(command: str, patch: pytest.MonkeyPatch) -> None:
    """Run or check a command; the current folder is the sandbox."""
    command = re.sub(r"^(\w+=\S+ )+", "", command)
    given = [docs_sandbox.PLACEHOLDERS.get(word, word) for word in words(re.sub(r"\bcuda(:\d)?\b", "cpu", command))]
    for pattern, check in RULES:
        if re.match(pattern, command):
            check(given, patch)
            return
    pytest.fail(f"no rule in {Path(__file__).name} knows this command")


# exvideo


def exvideo(given: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """Run it small, in this process."""
    arguments, target = _redirected(list(given[1:]))
    if arguments in ([arguments[0]], ["generate", arguments[-1]]):  # the text only names it
        assert _leaves_with_help(arguments)
    elif arguments[0] == "train":
        _train(arguments, target)
    elif arguments[0] == "download":
        _download(arguments)
    else:
        if arguments[0] in ("generate", "demo"):
            arguments = _small(_completed(arguments))
        assert main(arguments) == 0


def _redirected(arguments: list[str]) -> tuple[list[str], Path | None]:
    if ">" not in arguments:
        return arguments, None
    at = arguments.index(">")
    return arguments[:at], Path(arguments[at + 1])


def _completed(arguments: list[str]) -> list[str]:
    """With what the text leaves out."""
    while "..." in arguments:
        at = arguments.index("...")
        verbs = tuple(word for word in arguments[:at] if not word.startswith("-"))
        arguments = [*arguments[:at], *LEFT_OUT[verbs], *arguments[at + 1 :]]
    return arguments


def _small(arguments: list[str]) -> list[str]:
    """For few frames of few pixels in few steps; of equal options the last one counts."""
    if "--estimate" in arguments:
        return arguments
    small = SMALL["cogvideox" if "cogvideox" in arguments else "svd"]
    if arguments[0] == "demo":  # has a size of its own
        small = [word for word in small if not word.startswith(("--width", "--height"))]
    return [*arguments, *small]


def _download(arguments: list[str]) -> None:
    """All but the transfer, which the tests of `exvideo_core.hub` are about: nothing that is missing is fetched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "fetch", lambda file, folder, *_, **__: folder / file.name)
        patch.setattr(download, "check_room", lambda _: None)
        assert main(arguments) == 0


def _train(arguments: list[str], target: Path | None) -> None:
    if "--init" in arguments:
        written = StringIO()
        with redirect_stdout(written):
            assert main(arguments) == 0
        contents = yaml.safe_load(written.getvalue())
        if target is not None:
            target.write_text(yaml.safe_dump(docs_sandbox.pointed(contents)), encoding="utf-8")
        return
    files = [word for word in arguments[1:] if word.endswith(".yaml")]
    if not files:  # the text names an option
        assert _leaves_with_help(arguments)
        return
    (file,) = files
    if Path(file).parts[0] == "samples":  # tests/core/test_training_{learns,shipped}.py run them, or judge the result
        arguments = [*arguments, "--dry-run"]
    assert main(arguments) == 0


def _leaves_with_help(arguments: Sequence[str]) -> bool:
    with pytest.raises(SystemExit) as leaving:
        main([*arguments, "--help"])
    return leaving.value.code == 0


# Python


def exvideo_module(given: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """`python -m exvideo_core` is `exvideo`, `python -m exvideo_core.training` its `train`."""
    module, *arguments = given[given.index("-m") + 1 :]
    assert module in ("exvideo_core", "exvideo_core.training")
    exvideo(["exvideo", *(["train"] if module.endswith("training") else []), *arguments], patch)


def torchrun(given: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """Torchrun takes its options; what it starts is run as one process."""
    at = given.index("-m")
    options = [word for word in given[1:at] if word != "..."]
    rest = list(given[at:])
    if rest == ["-m", "exvideo_core.training"]:
        rest.append("my_extension.yaml")
    get_args_parser().parse_args([*options, *rest])
    exvideo_module(["python", *rest, *(["--dry-run"] if "exvideo_core.training" in rest else [])], patch)


def run_script(given: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """`run.py`: its parser takes the words, and the tests it is to run are there."""
    arguments = list(given[given.index("run.py") + 1 :])
    patch.setattr(sys, "argv", ["run.py", *arguments])
    patch.setattr(run_py, "Environment", _raise_accepted)
    with pytest.raises(Accepted):
        run_py.main()
    if arguments[0] == "test":
        _check_tests(arguments[1:])


def tests(given: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """`python -m pytest`: what it is to run is there."""
    _check_tests(given[given.index("pytest") + 1 :])


def _check_tests(arguments: Sequence[str]) -> None:
    for word in arguments:
        path, _, name = word.partition("::")
        if "/" in path:
            assert (ROOT / path).exists(), path
            assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")
    if "-m" in arguments:
        marks = Path(ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("markers = [")[2]
        for mark in set(re.findall(r"\w+", arguments[arguments.index("-m") + 1])) - {"not", "and", "or"}:
            assert f'"{mark}:' in marks, mark


def script(given: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """A script or module of the repository: its parser takes the words. Tests of its own run it."""
    at = 2 if given[1] == "-m" else 1
    name, *arguments = given[at:]
    if "<" in name:  # one of several
        assert list(ROOT.glob(re.sub("<.*?>", "*", name))), name
        return
    patch.setattr(sys, "argv", [name, *(arguments or ["--help"])])
    patch.chdir(ROOT)

    def start() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # runpy's: a module of it was imported before
            if at == 2:
                runpy.run_module(name, run_name="__main__")
            else:
                runpy.run_path(name, run_name="__main__")

    accepted(patch, start)


def approximations(given: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """It takes hours: its first two rows, made small, and the names of its tables."""
    docs_sandbox.make_small(patch)
    assert set(given[2:]) <= approximations_py.TABLES.keys()
    table = approximations_py.Table("SVD", approximations_py.svd())
    table.add("in 8 bits", approximations_py.svd(fp8="weights"))


def accepted(patch: pytest.MonkeyPatch, start: Callable[[], object]) -> None:
    """Start a program that ends where its arguments have been read."""
    parse = argparse.ArgumentParser.parse_args

    def stop(*words_and_namespace: object, **named: object) -> None:
        parse(*words_and_namespace, **named)  # type: ignore[arg-type]
        raise Accepted

    patch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises((Accepted, SystemExit)) as end:
        start()
    if isinstance(end.value, SystemExit) and end.value.code != 0:  # 0: it was asked for help
        raise end.value


def _raise_accepted(*_: object) -> None:
    raise Accepted


# what others' programs do


def packages(given: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """`pip install`: what is asked for exists, and is what the tests run with."""
    asked = [word for word in given[2:] if not word.startswith("-")]
    for word in asked:
        if word.endswith(".txt"):
            assert (ROOT / word).is_file()
            lines = (line.partition("#")[0].strip() for line in (ROOT / word).read_text(encoding="utf-8").splitlines())
            _check_installed(list(filter(None, lines)))
        elif word.startswith("."):
            _check_installed(_extra(word[2:-1]) if word != "." else PROJECT["dependencies"])
        else:
            _check_installed([word])


def _extra(names: str) -> list[str]:
    """What the extras need, those within others included."""
    found = []
    for name in names.split(","):
        for line in PROJECT["optional-dependencies"][name]:
            inner = re.fullmatch(r"exvideo\[(.+)\]", line)
            found += _extra(inner.group(1)) if inner else [line]
    return found


def _check_installed(lines: Sequence[str]) -> None:
    for needed in map(Requirement, lines):
        if needed.name not in BUILT_ON_THE_SPOT:
            version = importlib.metadata.version(needed.name)
            assert needed.specifier.contains(version.partition("+")[0], prereleases=True), f"{needed}, not {version}"


def clone(given: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """`git clone`: the address is the project's."""
    assert given[2].removesuffix(".git") == PROJECT["urls"]["Repository"]


def folder(given: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """`cd`: into ComfyUI's folder of packs, or what `git clone` made."""
    clones = PROJECT["urls"]["Repository"].rpartition("/")[2]
    assert given[1] in (clones, "ComfyUI/custom_nodes", f"ComfyUI/custom_nodes/{clones}")


def debian(given: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """`apt-get install`: the same as continuous integration installs."""
    asked = {word for word in given[2:] if not word.startswith("-")}
    assert "chromium" in asked
    assert asked <= set(re.findall(r"[\w-]+", (ROOT / ".ci" / "run").read_text(encoding="utf-8")))


# a part of a command


def is_known(option: str) -> bool:
    """Whether `exvideo`, a script of the repository, torchrun or ComfyUI takes the option, with its value."""
    name, *values = option.split()
    if any(_takes([*verb, name, *values]) for verb in VERBS):
        return True
    scripts = [ROOT / "run.py", *(ROOT / "benchmarks").glob("*.py")]
    comfyui = Environment(ROOT).tree(NEWEST) / "comfy" / "cli_args.py"
    if any(f'"{name}"' in path.read_text(encoding="utf-8") for path in scripts):
        return True
    if any(name in action.option_strings for action in get_args_parser()._actions):
        return True
    text = comfyui.read_text(encoding="utf-8")
    return all(f'"{word}"' in text for word in (name, *values))


def _takes(arguments: list[str]) -> bool:
    """Whether a verb of `exvideo` takes its last words."""
    if arguments[-1].startswith("--"):  # without a value: it is in the help
        shown = StringIO()
        with redirect_stdout(shown), pytest.raises(SystemExit):
            main([*arguments[:-1], "--help"])
        return re.search(rf"{arguments[-1]}\b", shown.getvalue()) is not None
    verbs = tuple(arguments[:2])
    with pytest.MonkeyPatch.context() as patch:
        try:
            accepted(patch, lambda: main([*arguments, *LEFT_OUT.get(verbs, [])]))
        except SystemExit:
            return False
    return True


VERBS = (["generate", "svd"], ["generate", "cogvideox"], ["train"], ["eval", "clip.mp4"], ["download"])

RULES: tuple[tuple[str, Callable[[Sequence[str], pytest.MonkeyPatch], None]], ...] = (
    (r"exvideo ", exvideo),
    (r"torchrun ", torchrun),
    (r"(python3? )?run\.py ", run_script),
    (r"(python|\.venv/bin/python) -m pytest", tests),
    (r"python -m exvideo_core(\.training)? ", exvideo_module),
    (r"python -m tools\.demo_models\.|\.venv/bin/python -m tests\.emulated_cuda", script),
    (r"python benchmarks/approximations\.py", approximations),
    (
        r"(python|\.venv/bin/python) (benchmarks|tests/(cpu_settings|golden|host|record_release|soak|faults|fuzz))",
        script,
    ),
    (r"pip install ", packages),
    (r"git clone ", clone),
    (r"cd ", folder),
    (r"apt-get install ", debian),
)
