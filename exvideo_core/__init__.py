"""Long videos from Stable Video Diffusion and CogVideoX with ExVideo (arXiv:2406.14130), in plain PyTorch."""

from . import aliases, registry
from .errors import CheckpointError, ClipError, DownloadError, ExVideoError, VideoError
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
