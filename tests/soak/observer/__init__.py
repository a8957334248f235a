"""A pack for tests that tells what is alive in the server's process, by a route and without any node."""

import asyncio
import ctypes
import gc
import re
import sys
import threading
from collections import Counter

import torch
from aiohttp import web
from comfy import model_management, model_patcher, sd
from comfy.clip_vision import ClipVisionModel
from comfy.model_base import BaseModel
from comfy_api.latest import ComfyExtension

ADDRESS = "/soak/alive"
# ComfyUI's, and by name those of the pack, which is imported under a name of its own
KINDS = {
    "networks": BaseModel,
    "patchers": model_patcher.ModelPatcher,
    "VAEs": sd.VAE,
    "CLIPs": sd.CLIP,
    "image encoders": ClipVisionModel,
}
NAMES = {"StepCache", "AnimatedPreview", "Progress", "Watching", "Plan", "FFmpeg", "Stream", "HostTensor", "Part"}


class Mallinfo(ctypes.Structure):
    """mallinfo2 of glibc: what its arenas hold."""

    names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in names]


def heap(is_trimmed):
    """Bytes that the process has asked for and not given back, and those that the C library keeps for later."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):  # older than glibc 2.33, or another library
        return None
    if is_trimmed:
        library.malloc_trim(0)
    library.mallinfo2.restype = Mallinfo
    found = library.mallinfo2()
    return {"used": found.uordblks + found.hblkhd, "kept": found.fordblks}


def alive(is_trimmed):
    """What there is, after everything that nobody refers to has been collected, and free memory given back if asked."""
    gc.collect()
    objects = gc.get_objects()
    kinds = [type(each) for each in objects]
    counts = {name: sum(issubclass(kind, wanted) for kind in kinds) for name, wanted in KINDS.items()}
    ours = Counter(kind.__name__ for kind in kinds if kind.__name__ in NAMES and "exvideo" in kind.__module__.lower())
    storages = {}
    for each, kind in zip(objects, kinds, strict=True):
        if issubclass(kind, torch.Tensor) and each.device.type == "cpu":
            storage = each.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return {
        "loaded": len(model_management.current_loaded_models),
        "objects": counts | dict(ours),
        "all_objects": len(objects),
        "tensor_bytes": sum(storages.values()),
        "heap": heap(is_trimmed),
        "threads": sorted(re.sub(r"[-_]\d+", "", thread.name) for thread in threading.enumerate()),
    }


class Observer(ComfyExtension):
    async def on_load(self):
        import server

        @server.PromptServer.instance.routes.get(ADDRESS)
        async def answer(request):
            return web.json_response(await asyncio.to_thread(alive, "trim" in request.query))

    async def get_node_list(self):
        return []


async def comfy_entrypoint():
    return Observer()
