"""What a clip will take, before it is made: operations, time, memory."""

from .jobs import Clip, Estimate, Place, estimate_cogvideox, estimate_svd
from .quick import cogvideox_call, cogvideox_line, svd_call, svd_line
from .speed import Speed, Work, probe, seconds

__all__ = [
    "Clip",
    "Estimate",
    "Place",
    "Speed",
    "Work",
    "cogvideox_call",
    "cogvideox_line",
    "estimate_cogvideox",
    "estimate_svd",
    "probe",
    "seconds",
    "svd_call",
    "svd_line",
]
