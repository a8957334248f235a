"""The pack inside an imported ComfyUI, and narrow weight files.

ComfyUI's modules are imported into the test process, on the CPU, with folders of their own. EXVIDEO_COMFYUI names a
source tree to use instead of the newest one.
"""

import asyncio
import copy
import importlib
import importlib.util
import os
import pkgutil
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hub_server import running_hub
from in_comfyui import CogRun, Run, save_cogvideox_files, save_narrow_files, save_random_lora

from exvideo_core.hub import catalog
from host.comfyui_trees import NEWEST
from host.environment import Environment

ROOT = Path(__file__).resolve().parents[2]
PACK = "exvideo_pack"  # the name ComfyUI would choose; never the repository's own
PARTS = ("families", "host", "files", "download", "sampler", "speed", "video")
FOLDERS = ("svd", "cogvideox", "comfy_bridge")


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))  # of ComfyUI and what it imports


@pytest.fixture(scope="session")
def pack(tmp_path_factory):
    """The pack's modules by name, imported as ComfyUI does it."""
    tree = Path(os.environ.get("EXVIDEO_COMFYUI") or Environment(ROOT).tree(NEWEST))
    if not (tree / "main.py").exists():
        pytest.skip(f"no ComfyUI in {tree}: `python run.py test` puts one there")
    sys.path.insert(0, str(tree))  # before the repository, which has a folder "nodes" too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_pack(tmp_path_factory.mktemp("comfyui"))


def import_pack(base):
    from comfy.cli_args import args

    args.cpu, args.base_directory = True, str(base)
    specification = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(specification)
    sys.modules[PACK] = module
    specification.loader.exec_module(module)
    extension = asyncio.run(module.comfy_entrypoint())
    asyncio.run(extension.on_load())
    parts = {name: importlib.import_module(f"{PACK}.nodes.{name}") for name in PARTS}
    folders = {folder: modules_in(f"{PACK}.nodes.{folder}") for folder in FOLDERS}
    errors = importlib.import_module(f"{PACK}.exvideo_core.errors")
    node_list = asyncio.run(extension.get_node_list())
    return SimpleNamespace(**parts, **folders, errors=errors, nodes=node_list, base=base)


def modules_in(package):
    """Every module of a package, by name."""
    names = [module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]
    return SimpleNamespace(**{name: importlib.import_module(f"{package}.{name}") for name in names})


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """svd_xt.safetensors and an extension for 12 frames, as narrow as they can be."""
    return save_narrow_files(tmp_path_factory.mktemp("narrow"))


@pytest.fixture(scope="session")
def loaded(pack, files):
    """MODEL, CLIP_VISION and VAE with the extension."""
    return pack.svd.loading.load_svd(*files, torch.float32)


@pytest.fixture
def run(pack, loaded):
    """Everything a sampler needs for a clip of 6 frames; `sample` runs ExVideoSampler's part of it."""
    return Run(pack, *loaded)


@pytest.fixture(scope="session")
def cog_files(tmp_path_factory):
    """CogVideoX's transformer, text encoder and VAE, as narrow as they can be."""
    return save_cogvideox_files(tmp_path_factory.mktemp("narrow_cogvideox"))


@pytest.fixture(scope="session")
def cog_lora(cog_files):
    """A LoRA in the published naming."""
    return save_random_lora(cog_files[0].with_name("lora.safetensors"))


@pytest.fixture(scope="session")
def cog_loaded(pack, cog_files):
    """MODEL, CLIP and VAE."""
    return pack.cogvideox.loading.load_cogvideox(*cog_files, torch.float32)


@pytest.fixture
def cog(pack, cog_loaded):
    """Everything a sampler needs for a clip of 17 frames."""
    return CogRun(pack, *cog_loaded)


@pytest.fixture(scope="session")
def in_float64(pack, files, cog_files):
    """A run like the given one, whose network computes in float64."""
    svd = pack.svd.loading.load_svd(*files, torch.float64)[0]
    cogvideox = pack.cogvideox.loading.load_cogvideox(*cog_files, torch.float64)[0]

    def twin(run):
        double = copy.copy(run)
        double.model = cogvideox if isinstance(run, CogRun) else svd
        return double

    return twin


# published files


@pytest.fixture
def hub(comfyui, request):
    """Hugging Face on this machine; each file's content is the test module's CONTENT."""
    with running_hub(comfyui.hub_port) as hub:
        hub.files = {
            f"{file.repositories['huggingface']}/{file.path}": request.module.CONTENT for file in catalog.files()
        }
        yield hub


@pytest.fixture
def models(comfyui):
    """The models folder without published files, as it was afterwards."""
    folder = comfyui.base / "models"
    kept = comfyui.base / "kept"
    kept.mkdir()
    there = [path for file in catalog.files() for name in file.names if (path := folder / file.folder / name).exists()]
    for path in there:
        shutil.move(path, kept / f"{path.parent.name}-{path.name}")
    yield folder
    for file in catalog.files():
        for path in (folder / file.folder).glob(f"{file.name}*"):
            path.unlink()
    for path in there:
        shutil.move(kept / f"{path.parent.name}-{path.name}", path)
    kept.rmdir()
