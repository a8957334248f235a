"""Inputs that name a model file: what the list offers, what each file is, and what is said when one is missing."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..exvideo_core.errors import CheckpointError
from ..exvideo_core.hub import catalog
from ..exvideo_core.weights.detect import UNKNOWN, identify
from ..exvideo_core.weights.safetensors_files import open_weights
from . import host

LISTS: dict[str, Callable[[], list[str]]] = {
    host.CHECKPOINTS_FOLDER: lambda: host.list_files(host.CHECKPOINTS_FOLDER),
    host.EXTENSIONS_FOLDER: host.list_extensions,
    host.TRANSFORMERS_FOLDER: lambda: host.list_parts(host.TRANSFORMERS_FOLDER),
    host.TEXT_ENCODERS_FOLDER: lambda: host.list_parts(host.TEXT_ENCODERS_FOLDER),
    host.VAE_FOLDER: lambda: host.list_parts(host.VAE_FOLDER),
    host.LORAS_FOLDER: lambda: host.list_files(host.LORAS_FOLDER),
}
LABELS_ADDRESS = "/exvideo/files"
_FORMATS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8_e4m3fn": "fp8", "float8_e5m2": "fp8"}
_known: dict[tuple[str, int, int], str] = {}  # labels by path, time and size


def combo(name: str, folder: str, tooltip: str) -> io.Combo.Input:
    """The list of a model folder. web/files.js reads what goes along with it."""
    names = [file.names for file in catalog.files() if file.folder == folder and len(file.names) > 1]
    told = {"exvideo_files": {"folder": folder, "names": names}}
    return io.Combo.Input(name, options=LISTS[folder](), tooltip=tooltip, extra_dict=told)


def check(**chosen: tuple[str, str | None]) -> bool | str:
    """Whether these inputs, as (folder, value), name files that are there; else what to do, for `validate_inputs`.

    A node that names an input there answers for its list itself: ComfyUI no longer looks. None comes through a link.
    """
    for name, (folder, value) in chosen.items():
        is_none = (folder, value) == (host.EXTENSIONS_FOLDER, host.NO_EXTENSION)
        if value is not None and not is_none and host.look_for(folder, value) is None:
            return f"{name}: {host.missing_file(folder, value)}"
    return True


def labels() -> dict[str, dict[str, str]]:
    """What each file in the loaders' lists is, by folder and name. Headers are read once for each state of a file."""
    return {folder: {name: _label(folder, name) for name in names()} for folder, names in LISTS.items()}


def _label(folder: str, name: str) -> str:
    path = host.look_for(folder, name)
    if path is None:  # "none", or gone since the list was made
        return ""
    try:
        state = path.stat()
        key = str(path), state.st_mtime_ns, state.st_size
        if key not in _known:
            _known[key] = _describe(path)
        return _known[key]
    except OSError:
        return "cannot be read"


def _describe(path: Path) -> str:
    """An ExVideo extension of SVD for 128 frames, fp16."""
    try:
        file = open_weights(path)
    except CheckpointError as error:
        return re.split(r"[;:,(]", str(error).removeprefix(f"{path.name} ").removeprefix("is "))[0].strip(". ")
    formats = [str(dtype).removeprefix("torch.") for name, dtype in file.dtypes.items() if len(file.shapes[name]) > 1]
    usual = max(set(formats), key=formats.count) if formats else ""
    found = identify(file.shapes)
    what = re.sub(r"^an? ", "", found.what).partition(" (")[0]
    return what if found.kind is UNKNOWN else f"{what}, {_FORMATS.get(usual, usual)}".rstrip(", ")


def register_routes() -> None:
    """Let the page ask for the labels; where ComfyUI's objects are used without a server there is no page."""
    server: Any = sys.modules.get("server")
    instance = getattr(getattr(server, "PromptServer", None), "instance", None)
    if instance is None or any(getattr(route, "path", None) == LABELS_ADDRESS for route in instance.routes):
        return  # the second: this pack is installed twice, and ComfyUI would not start
    from aiohttp import web

    @instance.routes.get(LABELS_ADDRESS)
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(labels))
