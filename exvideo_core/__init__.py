"""Long videos from Stable Video Diffusion and CogVideoX with ExVideo (arXiv:2406.14130), in plain PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from . import aliases, registry
from .errors import CheckpointError, ClipError, DownloadError, ExVideoError, VideoError

if TYPE_CHECKING:
    from .evaluation.measures import measure
    from .families.cogvideox.pipeline import CogVideoXPipeline, CogVideoXResult, load_cogvideox
    from .families.svd.pipeline import SVDPipeline, SVDResult, load_svd
    from .families.svd.save import save_extension, save_svd
    from .lora import apply_lora, remove_loras
    from .nn.fp8 import multiply_in_fp8, store_in_fp8
    from .nn.step_cache import Reuse
    from .runtime.resume import SavedRun
    from .video import load_frames, save_video
    from .weights.write import write_weights

# imported when they are asked for, so that ComfyUI's start imports what the nodes need and no more
_LAZY = {
    "CogVideoXPipeline": "families.cogvideox.pipeline",
    "CogVideoXResult": "families.cogvideox.pipeline",
    "Reuse": "nn.step_cache",
    "SVDPipeline": "families.svd.pipeline",
    "SVDResult": "families.svd.pipeline",
    "SavedRun": "runtime.resume",
    "apply_lora": "lora",
    "load_cogvideox": "families.cogvideox.pipeline",
    "load_frames": "video",
    "load_svd": "families.svd.pipeline",
    "measure": "evaluation.measures",
    "multiply_in_fp8": "nn.fp8",
    "remove_loras": "lora",
    "save_extension": "families.svd.save",
    "save_svd": "families.svd.save",
    "save_video": "video",
    "store_in_fp8": "nn.fp8",
    "write_weights": "weights.write",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    return value


registry.connect()
aliases.keep_old_paths()

__version__ = "0.2.0"
__all__ = [
    "CheckpointError",
    "ClipError",
    "CogVideoXPipeline",
    "CogVideoXResult",
    "DownloadError",
    "ExVideoError",
    "Reuse",
    "SVDPipeline",
    "SVDResult",
    "SavedRun",
    "VideoError",
    "apply_lora",
    "load_cogvideox",
    "load_frames",
    "load_svd",
    "measure",
    "multiply_in_fp8",
    "remove_loras",
    "save_extension",
    "save_svd",
    "save_video",
    "store_in_fp8",
    "write_weights",
]
