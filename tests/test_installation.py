"""What ComfyUI's log says where the pack cannot run, or not all of it; each time one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

import installation

ROOT = Path(__file__).resolve().parents[1]
# Imports the pack as every version of ComfyUI does, and prints what its log would say.
IMPORT = """
import importlib.util, logging, sys
from pathlib import Path
logging.basicConfig(stream=sys.stdout, format="%(message)s")
sys.path.insert(0, "comfyui")
import folder_paths
for missing in sys.argv[2:]:
    sys.modules[missing] = None
folder = Path(sys.argv[1])
spec = importlib.util.spec_from_file_location("pack", folder / "__init__.py", submodule_search_locations=[str(folder)])
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
try:
    spec.loader.exec_module(pack)
    print("imported")
except ImportError as error:
    print(error)
"""


def log_of_import(place, *, version="0.16.3", has_node_api=True, missing=(), name="ComfyUI-ExVideo"):
    """The lines; `place` gets as much of a ComfyUI as the pack looks at before its nodes are asked for."""
    (place / "comfyui" / "comfy_api").mkdir(parents=True)
    (place / "comfyui" / "folder_paths.py").touch()
    if version:
        (place / "comfyui" / "comfyui_version.py").write_text(f'__version__ = "{version}"')
    if has_node_api:
        (place / "comfyui" / "comfy_api" / "__init__.py").touch()
        (place / "comfyui" / "comfy_api" / "latest.py").touch()
    (place / name).symlink_to(ROOT, target_is_directory=True)
    command = [sys.executable, "-X", "utf8", "-c", IMPORT, name, *missing]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, encoding="utf-8", check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("version", ["0.16.3", "0.30.0", "1.0"])
def test_nothing_is_said_where_all_is_well(tmp_path, version):
    assert log_of_import(tmp_path, version=version) == ["imported"]


@pytest.mark.parametrize(
    ("version", "has_node_api", "named"),
    [
        ("0.3.10", False, "0.3.10"),  # knows nothing of comfy_entrypoint
        ("0.3.68", True, "0.3.68"),
        ("0.16.2", True, "0.16.2"),
        ("", False, "an older one"),
        ("0.30.0", False, "0.30.0"),
    ],
)
def test_too_old_comfyui(tmp_path, version, has_node_api, named):
    assert log_of_import(tmp_path, version=version, has_node_api=has_node_api) == [
        f"ComfyUI-ExVideo needs ComfyUI 0.16.3 or newer; this is {named}. Please update ComfyUI."
    ]


def test_missing_packages(tmp_path):
    (line,) = log_of_import(tmp_path, missing=["einops", "imageio_ffmpeg"])

    assert line.startswith("ComfyUI-ExVideo needs einops, imageio-ffmpeg, which ComfyUI's Python does not have.")
    assert line.endswith(f'"{sys.executable}" -m pip install -r "{tmp_path / "ComfyUI-ExVideo" / "requirements.txt"}"')


def test_all_packages_are_looked_for():
    asked = [line.partition(">")[0] for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()]

    assert [*installation.PACKAGES.values()] == asked


@pytest.mark.parametrize("name", ["exvideo", "ComfyUI-ExVideo-main", "ComfyUI-ExVideo-0.2.0", "ExVideo(1)"])
def test_usual_folder_names(tmp_path, name):
    assert log_of_import(tmp_path, name=name) == ["imported"]


@pytest.mark.parametrize("name", ["My ExVideo", "扩展", "exvideo#1"])
def test_folder_out_of_which_comfyui_serves_nothing(tmp_path, name):
    line, end = log_of_import(tmp_path, name=name)

    assert "Rename it to ComfyUI-ExVideo" in line
    assert line.isascii()  # any console can print it
    assert end == "imported"
