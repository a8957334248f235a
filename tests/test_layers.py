"""Imports point one way. A new file of the core needs its place in LAYERS before it can be imported."""

import ast
import re
import tokenize
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


def imported_modules(path, base=Path()):
    """The absolute modules a file imports, also inside functions, and its relative imports as parts of a path."""
    absolute, relative = set(), set()
    for node in ast.walk(ast.parse((base / path).read_text(encoding="utf-8"))):
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


# A model is a folder: shared code has none of their names in an identifier. `exvideo_core` itself has the public names,
# such as load_svd, and aliases.py those of earlier versions.
MODEL_NAME = re.compile(r"svd|cogvideo|(^|_)cog(_|$)|(^|_)t5(_|$)", re.IGNORECASE)
KNOW_FAMILIES = {
    "exvideo_core/__init__.py", "exvideo_core/aliases.py", "exvideo_core/registry.py", "nodes/families.py",
}  # fmt: skip
FAMILY_FOLDERS = ("exvideo_core/families/", "nodes/svd/", "nodes/cogvideox/")
SHARED_FILES = [
    name
    for name in [*(f"exvideo_core/{file.as_posix()}" for file in CORE_FILES), *(file.as_posix() for file in NODE_FILES)]
    if not name.startswith(FAMILY_FOLDERS) and name not in KNOW_FAMILIES
]


@pytest.mark.parametrize("name", SHARED_FILES)
def test_shared_code_names_no_model(name):
    with (ROOT / name).open("rb") as file:
        names = {token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.NAME}

    assert not {each for each in names if MODEL_NAME.search(each)}


@pytest.mark.parametrize("name", [name for name in SHARED_FILES if name.startswith("nodes/")])
def test_shared_nodes_import_no_family(name):
    _, relative = imported_modules(Path(name), ROOT)

    assert not {parts for parts in relative if parts[:2] in {("nodes", "svd"), ("nodes", "cogvideox")}}
    assert not {parts for parts in relative if parts[:2] == ("exvideo_core", "families")}


@pytest.mark.parametrize("family", ["svd", "cogvideox"])
def test_families_do_not_import_each_other(family):
    other = {"svd": "cogvideox", "cogvideox": "svd"}[family]
    for base in (CORE / "families" / family, ROOT / "nodes" / family):
        for file in base.rglob("*.py"):
            _, relative = imported_modules(file.relative_to(ROOT), ROOT)
            assert not {parts for parts in relative if other in parts[:3]}, f"{file} imports {other}"
