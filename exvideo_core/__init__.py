"""Long videos from Stable Video Diffusion and CogVideoX with ExVideo (arXiv:2406.14130), in plain PyTorch."""

from . import aliases, registry
from .errors import CheckpointError, ClipError, DownloadError, ExVideoError, VideoError
from .families.cogvideox.pipeline import CogVideoXPipeline, CogVideoXResult, load_cogvideox
from .families.svd.pipeline import SVDPipeline, SVDResult, load_svd
from .lora import apply_lora
from .video import save_video

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
    "SVDPipeline",
    "SVDResult",
    "VideoError",
    "apply_lora",
    "load_cogvideox",
    "load_svd",
    "save_video",
]
