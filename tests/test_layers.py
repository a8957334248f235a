"""Imports point one way. A new file of the core needs its place in LAYERS before it can be imported."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "exvideo_core"
# Lowest first. A file or folder imports its own layer and those before it.
LAYERS = (
    ("errors", "files", "progress", "whole_file"),
    ("nn", "video"),
    ("evaluation", "weights", "demo_models"),
    ("sampling", "runtime", "hub", "lora", "estimate"),
    ("training", "terminal"),
    ("family",),
    ("families",),
    ("registry",),
    ("cli",),
    ("aliases",),
    ("__init__", "__main__"),
)
LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}
# ComfyUI's own modules, the implementations this project is compared with, and the other half of this repository
FOREIGN = {
    "comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "node_helpers", "nodes",
    "server", "diffusers", "diffsynth", "exvideo_core", "host",
}  # fmt: skip
CORE_FILES = sorted(path.relative_to(CORE) for path in CORE.rglob("*.py"))
NODE_FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "nodes").rglob("*.py"))


def imported_modules(path):
    """The absolute modules a file imports, also inside functions, and its relative imports as parts of a path."""
    absolute, relative = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            absolute |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            absolute.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            start = path.parts[: len(path.parts) - node.level]
            for name in [node.module] if node.module else [name.name for name in node.names]:
                relative.add((*start, *name.split(".")))
    return absolute, relative


def layer_name(path):
    """The file or folder directly in the core that a path belongs to; a __main__ may import the command line."""
    return "__main__" if path.name == "__main__.py" else path.parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", CORE_FILES, ids=str)
def test_core_imports_point_down(file):
    _, relative = imported_modules(CORE / file)

    assert layer_name(file) in LAYER_OF, f"give {layer_name(file)!r} a place in LAYERS"
    for parts in relative:
        assert parts[: len(CORE.parts)] == CORE.parts, f"{file} imports from outside exvideo_core"
        imported = parts[len(CORE.parts)]
        assert imported in LAYER_OF, f"{file} imports {imported!r}, which has no place in LAYERS"
        assert LAYER_OF[imported] <= LAYER_OF[layer_name(file)], f"{file} imports {imported}, which is above it"


@pytest.mark.parametrize("file", CORE_FILES, ids=str)
def test_core_stands_alone(file):
    absolute, _ = imported_modules(CORE / file)

    assert not absolute & FOREIGN, "the core knows neither ComfyUI nor the references, and imports itself relatively"


@pytest.mark.parametrize("file", [Path("__init__.py"), *NODE_FILES], ids=str)
def test_pack_imports_its_own_files_relatively(file):
    absolute, _ = imported_modules(ROOT / file)

    # ComfyUI imports the pack under a name of its own choice, and has a module "nodes" itself
    assert not absolute & {"exvideo_core", "diffusers", "diffsynth"}
