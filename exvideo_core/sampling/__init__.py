"""Sampling: noise levels, denoisers, guidance and the solver, for any network."""

from ..runtime.resume import SavedRun
from .denoisers import add_noise, pin_frames, v_prediction, zero_snr_v_prediction
from .guidance import frame_guidance, guide, rising_guidance
from .levels import Levels
from .methods import Method
from .postprocess import finish, normalize_frames
from .samplers import solve
from .schedules import (
    alpha_levels,
    karras_sigmas,
    linspace_timesteps,
    num_timesteps,
    trailing_timesteps,
    zero_snr_alphas,
)

__all__ = [
    "Levels",
    "Method",
    "SavedRun",
    "add_noise",
    "alpha_levels",
    "finish",
    "frame_guidance",
    "guide",
    "karras_sigmas",
    "linspace_timesteps",
    "normalize_frames",
    "num_timesteps",
    "pin_frames",
    "rising_guidance",
    "solve",
    "trailing_timesteps",
    "v_prediction",
    "zero_snr_alphas",
    "zero_snr_v_prediction",
]
