"""Labels of the files in the loaders' lists, for the page."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

from ..exvideo_core.errors import CheckpointError
from ..exvideo_core.weights.detect import UNKNOWN
from ..exvideo_core.weights.formats import label
from ..exvideo_core.weights.safetensors_files import open_weights
from . import families
from .comfy_bridge.file_lists import FileList

LABELS_ADDRESS = "/exvideo/files"
_known: dict[tuple[str, int, int], str] = {}  # labels by path, time and size


def labels() -> dict[str, dict[str, str]]:
    """Labels of the files in all lists, by folder and name. The header of a file is read once, until it changes."""
    found: dict[str, dict[str, str]] = {}
    for files in (each for adapter in families.ADAPTERS for each in adapter.files):
        found.setdefault(files.folder, {}).update({name: _label(files, name) for name in files.names()})
    return found


def _label(files: FileList, name: str) -> str:
    path = files.look_for(name)
    if path is None:  # "none", or deleted since the list was made
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
    """A label such as: ExVideo extension of SVD for 128 frames, fp16."""
    try:
        file = open_weights(path)
    except CheckpointError as error:
        return re.split(r"[;:,(]", str(error).removeprefix(f"{path.name} ").removeprefix("is "))[0].strip(". ")
    formats = [label(dtype) for name, dtype in file.dtypes.items() if len(file.shapes[name]) > 1]
    usual = max(set(formats), key=formats.count) if formats else ""
    found = file.identity
    what = re.sub(r"^an? ", "", found.what).partition(" (")[0]
    return what if found.kind is UNKNOWN else f"{what}, {usual}".rstrip(", ")


def register_routes() -> None:
    """Let the page ask for the labels. Without a server (ComfyUI's objects used from a script) there is no page."""
    server: Any = sys.modules.get("server")
    instance = getattr(getattr(server, "PromptServer", None), "instance", None)
    if instance is None or any(getattr(route, "path", None) == LABELS_ADDRESS for route in instance.routes):
        return  # the second: this pack is installed twice, and ComfyUI would not start
    from aiohttp import web

    @instance.routes.get(LABELS_ADDRESS)
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(labels))
