"""Sampling methods of CogVideoX, by the names that Python, the command line and ComfyUI use."""

from ...errors import ClipError
from ...sampling.methods import Method
from ...sampling.schedules import linspace_timesteps, num_timesteps, trailing_timesteps

METHODS = {
    "ddim": Method(schedule=linspace_timesteps),  # DiffSynth-Studio's
    "ddim_trailing": Method(schedule=trailing_timesteps),  # diffusers'
    "dpmpp_2m": Method(schedule=trailing_timesteps, order=2),
    "dpmpp_2m_sde": Method(schedule=trailing_timesteps, order=2, is_stochastic=True),
}


def check_steps(steps: int, denoise: float) -> None:
    """Raise ClipError with the nearest valid values if a run has fewer timesteps than steps."""
    if not 0 < denoise <= 1:
        raise ClipError(f"denoise {denoise} is not possible: it must be above 0 and at most 1.")
    most = num_timesteps(denoise)
    if not 1 <= steps <= most:
        nearest = min(max(steps, 1), most)
        raise ClipError(f"{steps} steps are not possible: 1 to {most} at denoise {denoise}. The nearest is {nearest}.")
