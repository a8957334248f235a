"""The repository as a package, as an entry of ComfyUI's registry, and as something to read."""

import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path

import pathspec
import pytest
from packaging.requirements import Requirement

import exvideo_core
from host.comfyui_trees import NEWEST, OLDEST
from host.environment import Environment

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest and mypy bring it along where Python has none

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NOT_OURS = {".git", "output", "build", "dist", "__pycache__"}
MAX_LINES = 400
MAX_ARCHIVE = 60e6  # bytes
# Things of the machine on which somebody wrote, in what everybody reads. The slashes are apart from the words, so that
# this list is not among its own findings.
PRIVATE_FOLDERS = ("home", "root", "work", "tmp", "Users", "opt")
PRIVATE = [*(rf"(?<![\w.])/{folder}/\w" for folder in PRIVATE_FOLDERS), r"[A-Z]:\\Users"]


@cache
def all_files():
    """Files of the repository, without what git ignores; `.venv` alone has 60,000, and is not entered."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in NOT_OURS and (name == ".ci" or name[0] != ".")]
        found += [Path(folder, name).relative_to(ROOT) for name in names if name not in NOT_OURS]
    return sorted(path for path in found if (ROOT / path).is_file())


def our_files(*suffixes):
    """Those with one of the suffixes."""
    return [path for path in all_files() if path.suffix in suffixes]


def requirements(path):
    lines = (line.partition("#")[0].strip() for line in (ROOT / path).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def test_requirements_equal_the_projects_dependencies():
    assert requirements("requirements.txt") == PROJECT["project"]["dependencies"]


def test_no_torch_is_asked_for():
    names = {re.split(r"[^\w-]", line)[0].lower() for line in requirements("requirements.txt")}

    # each machine has its own build of torch; asking for it can replace that one
    assert not names & {"torch", "torchvision", "torchaudio", "xformers", "flash-attn"}


def test_tested_versions_satisfy_the_dependencies():
    pinned = {line.partition("==")[0] for line in requirements("tests/host/requirements.txt")}

    assert {re.split(r"[^\w-]", line)[0] for line in requirements("requirements.txt")} <= pinned


def test_the_wheel_has_the_core_and_not_the_tools():
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["exvideo_core"]


def test_the_package_says_its_version():
    assert exvideo_core.__version__ == PROJECT["project"]["version"]


def test_changelog_has_the_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert re.search(rf"^## \[{re.escape(PROJECT['project']['version'])}\]", changelog, re.MULTILINE)


def archive():
    """What `comfy node pack` puts into the registry's archive: tracked files, without what .comfyignore names."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    if listed.returncode:
        pytest.skip("not a git repository")
    ignored = pathspec.GitIgnoreSpec.from_lines((ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines())
    files = [ROOT / name for name in listed.stdout.split("\0") if name and not ignored.match_file(name)]
    return [path for path in files if path.is_file()]


def test_registry_archive_is_small_and_has_what_people_see():
    files = archive()
    folders = {path.relative_to(ROOT).parts[0] for path in files}

    assert not folders & {"tests", "benchmarks", "docs", "tools", ".ci", "output", "run.py"}
    seen = {"web", "locales", "subgraphs", "workflows", "samples", "nodes", "exvideo_core"}
    assert folders >= {name for name in seen if (ROOT / name).exists()} | {"README.md", "installation.py", "LICENSE"}
    compressed = sum(len(zlib.compress(path.read_bytes())) for path in files)
    assert compressed < MAX_ARCHIVE, f"{compressed / 1e6:.1f} MB"


def test_file_names_are_the_same_on_every_system():
    for name in (path.relative_to(ROOT).as_posix() for path in archive()):
        assert re.fullmatch(r"[\w. /-]+", name, re.ASCII), name  # Windows forbids :, ?, * and others
        assert not re.search(r"[. ](/|$)", name), name  # and cuts these off
        assert len(name) < 120, name


def test_no_two_files_differ_only_in_case():
    names = [path.relative_to(ROOT).as_posix().lower() for path in archive()]

    assert len(set(names)) == len(names)


def test_requirements_change_nothing_where_comfyui_and_they_are_installed(tmp_path):
    # pip needs no index for what is there; what is not, or would be replaced, it would look for, and fail
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--report", str(report)]
    done = subprocess.run([*command, "-r", "requirements.txt"], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text(encoding="utf-8"))["install"] == []


@pytest.mark.parametrize("comfyui", [OLDEST, NEWEST], ids=lambda comfyui: comfyui.version)
def test_requirements_ask_for_nothing_newer_than_comfyui_does(comfyui):
    listed = Environment(ROOT).tree(comfyui) / "requirements.txt"
    if not listed.exists():
        pytest.skip(f"no {listed}: `python run.py test` puts it there")
    theirs = {asked.name.lower(): asked for asked in map(Requirement, requirements(listed))}
    for line in requirements("requirements.txt"):
        ours = Requirement(line)
        assert [bound.operator for bound in ours.specifier] == [">="], f"{line}: what is newer must do as well"
        for bound in theirs.get(ours.name.lower(), ours).specifier:
            assert ours.specifier.contains(bound.version), f"{line} and ComfyUI's {bound}"


def test_registry_archive_has_the_pack_and_not_its_tests():
    ignored = pathspec.GitIgnoreSpec.from_lines((ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines())

    for path in (
        "tests/conftest.py",
        "tests/host/server.py",
        ".ci/run",
        "output/demo/server.log",
        "run.py",
        "tools/demo_models/loop.py",
    ):
        assert ignored.match_file(path), path
    for path in [
        *our_files(".py"),
        *map(Path, ("pyproject.toml", "requirements.txt", "LICENSE", "README.md", "workflows/some.json")),
    ]:
        if path.parts[0] in ("__init__.py", "exvideo_core", "nodes", "workflows") or len(path.parts) == 1:
            assert ignored.match_file(path) == (path == Path("run.py")), path


def test_one_folder_has_the_templates():
    # ComfyUI serves each of these under the same address, where the first hides the files of the others
    names = ("example_workflows", "example", "examples", "workflow", "workflows")

    assert [name for name in names if (ROOT / name).exists()] == ["workflows"]


def test_registry_fields_are_of_the_allowed_form():
    comfy, project = PROJECT["tool"]["comfy"], PROJECT["project"]

    assert "comfyui" not in project["name"].lower()  # the registry's advice; it becomes the folder's name
    assert comfy["PublisherId"]
    assert comfy["DisplayName"]
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    # one classifier of another form makes the registry drop all of them
    systems = [line for line in project["classifiers"] if line.startswith("Operating System")]
    assert systems == ["Operating System :: OS Independent"]


@pytest.mark.parametrize("command", ["pytest -q", "ruff check"])
def test_a_clone_is_tested_under_its_own_name(command, tmp_path):
    # the root has an __init__.py, which tools take for a package's; ComfyUI-ExVideo is no name of one
    clone = tmp_path / "ComfyUI-ExVideo"
    (clone / "tests").mkdir(parents=True)
    for name in ("__init__.py", "installation.py", "pyproject.toml"):
        shutil.copy(ROOT / name, clone)
    (clone / "tests" / "test_one.py").write_text("def test_one():\n    pass\n", encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", *command.split()], cwd=clone, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


def test_files_can_be_read_in_one_go():
    lines = {str(file): (ROOT / file).read_text(encoding="utf-8").count("\n") for file in our_files(".py")}

    too_long = {name: count for name, count in lines.items() if count > MAX_LINES}
    assert lines
    assert not too_long, "split them by concept"


def test_files_name_nothing_of_one_machine():
    found = {}
    for file in our_files(".py", ".md", ".toml", ".txt", ".json", ".yml", ".yaml", ""):
        text = (ROOT / file).read_bytes().decode("utf-8", errors="replace")  # some are damaged on purpose
        found[str(file)] = [match.group() for pattern in PRIVATE for match in re.finditer(pattern, text)]

    assert found
    assert not {name: words[:3] for name, words in found.items() if words}


def test_pack_imports_without_comfyui_and_quickly():
    code = """
import importlib.util, sys, time
start = time.perf_counter()
spec = importlib.util.spec_from_file_location("pack", "__init__.py", submodule_search_locations=["."])
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
spec.loader.exec_module(pack)
print(time.perf_counter() - start, callable(pack.comfy_entrypoint), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    seconds, has_entrypoint, has_torch = done.stdout.split()
    assert has_entrypoint == "True"
    assert has_torch == "False"
    assert float(seconds) < 0.3
