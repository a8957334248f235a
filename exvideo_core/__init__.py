"""Long videos from Stable Video Diffusion with ExVideo's extensions (arXiv:2406.14130), in plain PyTorch."""

from .errors import CheckpointError, ClipError, ExVideoError, VideoError
from .pipelines.svd import SVDPipeline, SVDResult, load_svd
from .video import save_video

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "ClipError",
    "ExVideoError",
    "SVDPipeline",
    "SVDResult",
    "VideoError",
    "load_svd",
    "save_video",
]
