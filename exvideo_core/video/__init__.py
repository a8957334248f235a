"""Pictures and clips: layouts, reading and writing."""

from .files import check_target, save_video
from .reading import VideoInfo, load_frames, probe, read_video
from .stills import contact_sheet, save_poster

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
