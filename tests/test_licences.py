"""What is in the repository, or is installed for it, may be used with it, and NOTICE says where it is from."""

import importlib.metadata
import re
import subprocess
from fnmatch import fnmatch
from functools import cache

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_packaging import PROJECT, ROOT, requirements

from host.environment import CUDA, HERE
from host.lock import read_lock

PERMISSIVE = {
    "Apache-2.0", "MIT", "MIT-CMU", "BSD-2-Clause", "BSD-3-Clause", "BSD", "0BSD", "ISC", "Zlib", "BSL-1.0", "CC0-1.0",
    "PSF-2.0", "CNRI-Python", "Unlicense", "LLVM-exception",
}  # fmt: skip
# only changes of its own files have to be published, and nothing is changed
UNCHANGED = {"MPL-2.0"}
WORDS = (  # how packages write them; the first that fits
    (r"apache( software)?( license)?[ ,]*(version )?(2\.0)?( license)?", "Apache-2.0"),
    (r"mozilla public license 2\.0.*|mpl[- ]2\.0", "MPL-2.0"),
    (r"mit( license)?", "MIT"),
    (r"(3-clause bsd|bsd[ -]3-clause)( license)?", "BSD-3-Clause"),
    (r"bsd[ -]2-clause( license)?", "BSD-2-Clause"),
    (r"bsd( license)?", "BSD"),
    (r"isc( license.*)?", "ISC"),
    (r"python software foundation license|psfl?(-2\.0)?", "PSF-2.0"),
    (r"academic free license \(afl\)", "AFL"),
)
# Packages whose metadata names no licence, as their files or repositories do.
UNNAMED = {
    "atheris": {"Apache-2.0"},
    "comfy-aimdo": {"GPL-3.0-only"},
    "comfyui-frontend-package": {"GPL-3.0-only"},
}
# Under stronger licences, and installed by run.py alone, for ComfyUI: programs of their own, which are not shipped.
OF_COMFYUI = {"comfy-aimdo", "comfyui-frontend-package"}
# NVIDIA's libraries, under its own terms: a part of PyTorch's build with CUDA, which everybody chooses for themselves.
OF_CUDA = {canonicalize_name(Requirement(line).name) for line in read_lock(HERE / CUDA)}
DUAL = {"hjson": "MIT"}  # a choice that its metadata lists as two classifiers


@cache
def installed():
    return {canonicalize_name(each.name): each for each in importlib.metadata.distributions()}


def licences(name):
    """A package's licences; of alternatives, the permissive ones."""
    package = installed()[name]
    if name in UNNAMED:
        return UNNAMED[name]
    if name in DUAL:
        return {DUAL[name]}
    classifiers = package.metadata.get_all("Classifier") or []
    named = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License ::")]
    field = (package.metadata.get("License") or "").strip()
    first = re.sub(r"\s+", " ", field) if len(field) < 80 else ""
    text = package.metadata.get("License-Expression") or " AND ".join(named) or first
    assert text, f"{name} names no licence: look at its files, and add it to UNNAMED"
    found = set()
    for part in re.split(r" AND | WITH ", text.strip("()")):
        choices = {spdx(each) for each in re.split(r" OR ", part)}
        found |= choices & PERMISSIVE or choices
    return found


def spdx(text):
    text = text.strip(" ()")
    return next((name for pattern, name in WORDS if re.fullmatch(pattern, text, re.IGNORECASE)), text)


def needed_by(lines):
    """All packages that these lines bring along, as far as they are installed."""
    found, left = set(), [Requirement(line) for line in lines]
    while left:
        asked = left.pop()
        name = canonicalize_name(asked.name)
        if name in installed() and name not in found:
            found.add(name)
            needed = map(Requirement, installed()[name].requires or ())
            left += [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def test_what_runs_with_the_pack_is_permissive():
    extras = PROJECT["project"]["optional-dependencies"]
    lines = [line for name in ("headless", "train") for line in extras[name] if not line.startswith("exvideo")]
    names = needed_by([*requirements("requirements.txt"), *lines])

    assert {"safetensors", "torch", "tqdm"} <= names
    for name in names - OF_CUDA:
        assert licences(name) <= PERMISSIVE | UNCHANGED, name


@pytest.mark.parametrize("name", sorted(installed().keys() - OF_CUDA))
def test_what_tests_install_is_free_and_known(name):
    allowed = PERMISSIVE | UNCHANGED | ({"GPL-3.0-only"} if name in OF_COMFYUI else set())

    assert licences(name) <= allowed


def test_a_licence_that_takes_more_would_be_seen():
    assert spdx("GNU General Public License v3 (GPLv3)") not in PERMISSIVE | UNCHANGED
    assert spdx("Apache Software License") == spdx("Apache 2.0 License") == spdx("Apache-2.0") == "Apache-2.0"
    assert spdx("BSD License") == "BSD"


# what is in the repository


@cache
def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    if listed.returncode:
        pytest.skip("not a git repository")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def is_text(name):
    try:
        (ROOT / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return True


def patterns():
    """The files that NOTICE names, a line for each origin."""
    lines = (ROOT / "NOTICE").read_text(encoding="utf-8").splitlines()
    named = [line.partition(":") for line in lines if re.match(r"[\w./*-]+[/.][\w./*-]+(, |:)", line)]
    return [(pattern, origin) for paths, _, origin in named for pattern in paths.split(", ")]


def test_notice_says_where_every_file_that_is_no_text_is_from():
    unknown = [
        name for name in tracked() if not is_text(name) and not any(fnmatch(name, pattern) for pattern, _ in patterns())
    ]

    assert unknown == [], "name their origin and licence in NOTICE"


def test_notice_names_nothing_that_is_not_there():
    for pattern, origin in patterns():
        assert any(ROOT.glob(pattern)), pattern
        assert origin.strip()


def test_there_are_no_programs_libraries_or_fonts_in_the_repository():
    ends = (
        ".exe",
        ".dll",
        ".so",
        ".dylib",
        ".whl",
        ".jar",
        ".pyc",
        ".ttf",
        ".otf",
        ".woff",
        ".woff2",
        ".ckpt",
        ".pt",
        ".bin",
    )

    assert [name for name in tracked() if name.endswith(ends)] == []
