"""Sampling methods of CogVideoX, by the names that Python, the command line and ComfyUI use."""

from ...sampling.methods import Method
from ...sampling.schedules import linspace_timesteps, trailing_timesteps

METHODS = {
    "ddim": Method(schedule=linspace_timesteps),  # DiffSynth-Studio's
    "ddim_trailing": Method(schedule=trailing_timesteps),  # diffusers'
    "dpmpp_2m": Method(schedule=trailing_timesteps, order=2),
    "dpmpp_2m_sde": Method(schedule=trailing_timesteps, order=2, is_stochastic=True),
}
