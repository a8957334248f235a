"""Pictures and clips: their layouts, and reading and writing them."""

from .contact_sheet import contact_sheet
from .files import check_target, save_video
from .poster import save_poster
from .reading import VideoInfo, load_frames, probe, read_video

__all__ = [
    "VideoInfo",
    "check_target",
    "contact_sheet",
    "load_frames",
    "probe",
    "read_video",
    "save_poster",
    "save_video",
]
