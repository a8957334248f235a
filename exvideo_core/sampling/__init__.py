"""Sampling: noise levels, denoisers, guidance and solvers. Knows no network."""

from .denoisers import pin_frames, start, v_prediction
from .guidance import frame_guidance, guide
from .postprocess import normalize_frames
from .samplers import euler
from .schedules import karras_sigmas

__all__ = [
    "euler",
    "frame_guidance",
    "guide",
    "karras_sigmas",
    "normalize_frames",
    "pin_frames",
    "start",
    "v_prediction",
]
