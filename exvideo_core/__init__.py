"""Long videos from Stable Video Diffusion and CogVideoX with ExVideo (arXiv:2406.14130), in plain PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from . import aliases, registry
from .errors import CheckpointError, ClipError, DownloadError, ExVideoError, VideoError

if TYPE_CHECKING:
    from .evaluation.measures import measure as measure
    from .families.cogvideox.pipeline import (
        CogVideoXPipeline as CogVideoXPipeline,
        CogVideoXResult as CogVideoXResult,
        load_cogvideox as load_cogvideox,
    )
    from .families.svd.pipeline import SVDPipeline as SVDPipeline, SVDResult as SVDResult, load_svd as load_svd
    from .families.svd.save import save_extension as save_extension, save_svd as save_svd
    from .lora import apply_lora as apply_lora, remove_loras as remove_loras
    from .nn.fp8 import multiply_in_fp8 as multiply_in_fp8, store_in_fp8 as store_in_fp8
    from .nn.step_cache import Reuse as Reuse
    from .runtime.resume import SavedRun as SavedRun
    from .video import load_frames as load_frames, save_video as save_video
    from .weights.write import write_weights as write_weights

# imported when they are asked for, so that ComfyUI's start imports what the nodes need and no more
_LAZY = {
    "evaluation.measures": ("measure",),
    "families.cogvideox.pipeline": ("CogVideoXPipeline", "CogVideoXResult", "load_cogvideox"),
    "families.svd.pipeline": ("SVDPipeline", "SVDResult", "load_svd"),
    "families.svd.save": ("save_extension", "save_svd"),
    "lora": ("apply_lora", "remove_loras"),
    "nn.fp8": ("multiply_in_fp8", "store_in_fp8"),
    "nn.step_cache": ("Reuse",),
    "runtime.resume": ("SavedRun",),
    "video": ("load_frames", "save_video"),
    "weights.write": ("write_weights",),
}
_MODULES = {name: module for module, names in _LAZY.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return value


registry.connect()
aliases.keep_old_paths()

__version__ = "0.2.0"
__all__ = ["CheckpointError", "ClipError", "DownloadError", "ExVideoError", "VideoError", "__version__", *_MODULES]
