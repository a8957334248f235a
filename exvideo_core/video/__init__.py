"""Pictures and clips: layouts, reading and writing."""

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
