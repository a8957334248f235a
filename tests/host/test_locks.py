"""Every package of the environment is locked: one version, and the hashes of its files."""

import importlib.metadata
import re
import sys
import sysconfig
import zipfile
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from host.comfyui_trees import ComfyUIVersion, fetch_tree
from host.environment import CUDA, HERE, TORCH_CPU, Environment
from host.errors import HostError
from host.lock import INPUTS, fingerprint, read_lock

ROOT = HERE.parents[1]
LOCKS = (*INPUTS, TORCH_CPU)
AGAIN = "run .venv/bin/python tests/host/lock.py, and commit what it writes"
# Packages that are installed without what they ask for; requirements-alone.txt says why.
ALONE = {"diffsynth"}
SYSTEMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    "macos": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
    "windows": {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
}
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


@cache
def locked(name):
    return tuple(map(Requirement, read_lock(HERE / name)))


def asked(*names):
    lines = (line.partition("#")[0].strip() for name in names for line in (HERE / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def pins(requirements, **environment):
    """The version of each package that is for this system."""
    found = {}
    for each in requirements:
        if each.marker is None or each.marker.evaluate(environment):
            found.setdefault(canonicalize_name(each.name), set()).add(str(each.specifier))
    return found


def in_the_environment():
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        pytest.skip("these tests run in an environment that run.py did not make")


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_of_a_lock_has_one_version_and_hashes(name):
    entries = read_lock(HERE / name)

    assert entries
    for line, hashes in entries.items():
        (bound,) = Requirement(line).specifier
        assert bound.operator == "==", line
        assert "*" not in bound.version, line
        assert hashes, line
        assert len(hashes) == len(set(hashes)), line


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_nothing_but_packages_and_hashes(name):
    # an option in it, as another index, would hold for all that is installed from it
    for line in (HERE / name).read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"#.*|    --hash=sha256:[0-9a-f]{64}( \\)?|[\w.-]+==[\w.+]+( ; [^\\]+)? \\", line), line


@pytest.mark.parametrize("name", INPUTS)
def test_lock_is_made_of_the_requirements_as_they_are(name):
    assert f"# made of: {fingerprint(name)}\n" in (HERE / name).read_text(encoding="utf-8"), AGAIN


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_locks_are_of_one_mind_and_have_what_is_asked_for(system, python):
    environment = SYSTEMS[system] | {"python_version": python, "python_full_version": f"{python}.1"}
    together = pins([entry for name in INPUTS for entry in locked(name)], **environment)

    assert [name for name, versions in together.items() if len(versions) > 1] == []
    for name, versions in pins(asked(*{file for files in INPUTS.values() for file in files}), **environment).items():
        assert together.get(name) == versions, f"{name}: {AGAIN}"


def test_torch_without_cuda_is_the_same_version():
    (cpu,) = locked(TORCH_CPU)
    (torch,) = (entry for entry in locked("requirements.lock") if entry.name == "torch")

    assert str(cpu.specifier) == f"{torch.specifier}+cpu"
    assert {entry.name.partition("-")[0] for entry in locked(CUDA)} == {"nvidia", "cuda", "triton"}


def distributions():
    """What is installed; not what setuptools brings inside of itself and, once imported, puts on the path."""
    return importlib.metadata.distributions(path=sorted({sysconfig.get_path(kind) for kind in ("purelib", "platlib")}))


def test_environment_holds_what_is_locked_and_nothing_else():
    in_the_environment()
    allowed = pins([entry for name in INPUTS for entry in locked(name)])
    for package in distributions():
        name, version = canonicalize_name(package.name), Version(package.version)
        assert allowed.get(name) == {f"=={version.public}"}, f"{name} {version} is not locked: {AGAIN}, or delete .venv"


def test_what_the_packages_ask_for_is_there():
    in_the_environment()
    installed = {canonicalize_name(each.name): each for each in distributions()}
    for name, package in installed.items():
        for needed in map(Requirement, package.requires or ()):
            if name not in ALONE and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
                found = installed.get(canonicalize_name(needed.name))
                assert found, f"{name} asks for {needed}, which no lock has"
                assert needed.specifier.contains(Version(found.version).public, prereleases=True), f"{name}: {needed}"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that is all that pip knows of packages."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with zipfile.ZipFile(tmp_path / "swapped-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("swapped-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: swapped\nVersion: 1.0\n")
    return tmp_path


def test_a_package_with_other_bytes_is_refused(index):
    environment = Environment(ROOT)
    environment.python = Path(sys.executable)
    lock = index / "some.lock"
    lock.write_text(f"swapped==1.0 --hash=sha256:{'0' * 64}\n")

    with pytest.raises(HostError, match="DO NOT MATCH THE HASHES"):
        environment._install(str(lock), if_offered=True)


def test_source_is_not_built_and_what_is_not_offered_may_be_missing(index):
    environment = Environment(ROOT)
    environment.python = Path(sys.executable)
    (index / "swapped-1.0-py3-none-any.whl").rename(index / "swapped-1.0.zip")
    lock = index / "some.lock"
    lock.write_text(f"swapped==1.0 --hash=sha256:{'0' * 64}\n")

    environment._install(str(lock), if_offered=True)  # as PyTorch's build without CUDA; pip looks no further


def test_comfyui_with_other_bytes_is_refused(index):
    (index / "swapped-1.0.tar.gz").write_bytes(b"not what it was")
    other = ComfyUIVersion(version="0.30.0", package="swapped==1.0", sha256="0" * 64)

    with pytest.raises(HostError, match="DO NOT MATCH THE HASHES"):
        fetch_tree(other, index / "tree", Path(sys.executable))
