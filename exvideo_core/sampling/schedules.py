"""Noise levels of a sampling run."""

from __future__ import annotations

import torch
from torch import Tensor

# Range and curvature of Stable Video Diffusion's training (arXiv:2311.15127; arXiv:2206.00364, eq. 5).
SIGMA_MIN = 0.002
SIGMA_MAX = 700.0
RHO = 7.0
# The levels CogVideoX-5B was trained on, and their variances (arXiv:2408.06072; its 2B model shifts them further).
NUM_TIMESTEPS = 1000
BETA_FIRST = 0.00085
BETA_LAST = 0.012


def karras_sigmas(
    steps: int, denoise: float = 1.0, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX
) -> Tensor:
    """Decreasing noise levels, evenly spaced in sigma^(1 / 7), and a final 0.

    Args:
        steps: model calls. `denoise` does not change their number, as in DiffSynth-Studio 1.1.9.
        denoise: 1 starts from pure noise; less starts at a lower level, to vary a given clip.
        sigma_min: last level before 0.
        sigma_max: first level at `denoise` 1.

    Returns:
        [steps + 1] float32.

    >>> karras_sigmas(3).tolist()[-2:]
    [0.0020000000949949026, 0.0]
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise must be above 0 and at most 1, not {denoise}")
    ramp = torch.linspace(1 - denoise, 1, steps, dtype=torch.float64)
    first, last = sigma_max ** (1 / RHO), sigma_min ** (1 / RHO)
    sigmas = (first + ramp * (last - first)) ** RHO
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()


def zero_snr_alphas() -> Tensor:
    """Fraction of the variance that is signal at each timestep of CogVideoX; the rest is noise.

    The square roots of the scaled linear schedule are shifted and scaled so that the last is 0 and the first is kept:
    timestep 999 is pure noise (zero terminal SNR, arXiv:2305.08891, algorithm 1).

    Returns:
        [1000] float32, from 0.99915 at timestep 0 down to exactly 0.
    """
    roots = torch.linspace(BETA_FIRST**0.5, BETA_LAST**0.5, NUM_TIMESTEPS, dtype=torch.float64, device="cpu")
    signal = (1 - roots**2).cumprod(0).sqrt()
    signal = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
    return (signal**2).float()


def num_timesteps(denoise: float) -> int:
    """Number of timesteps that a run may use: from 0 up to where `denoise` starts it."""
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise must be above 0 and at most 1, not {denoise}")
    return max(round(NUM_TIMESTEPS * denoise), 1)


def linspace_timesteps(steps: int, denoise: float = 1.0) -> Tensor:
    """Timesteps evenly spaced from the first to 0, as in DiffSynth-Studio 1.1.9 (schedulers/ddim.py).

    Args:
        steps: model calls. `denoise` does not change their number.
        denoise: 1 starts from pure noise, at 999; less starts at a lower timestep, to vary a given clip.

    Returns:
        [steps] int64, decreasing.

    >>> linspace_timesteps(5).tolist()
    [999, 749, 500, 250, 0]
    """
    first = _checked_count(steps, denoise) - 1
    stride = first / max(steps - 1, 1)
    return torch.tensor([round(first - step * stride) for step in range(steps)], device="cpu")


def trailing_timesteps(steps: int, denoise: float = 1.0) -> Tensor:
    """Timesteps evenly spaced down to one stride above the clean latents (arXiv:2305.08891, table 2).

    The arguments are those of `linspace_timesteps`. At `denoise` 1, diffusers uses these for CogVideoX.

    >>> trailing_timesteps(5).tolist()
    [999, 799, 599, 399, 199]
    """
    count = _checked_count(steps, denoise)
    stride = count / steps
    return torch.tensor([round(count - step * stride) - 1 for step in range(steps)], device="cpu")


def alpha_levels(timesteps: Tensor) -> Tensor:
    """Levels alpha of timesteps, and a final 1: [steps + 1] float32, on the CPU."""
    return torch.cat([zero_snr_alphas()[timesteps], torch.ones(1, device="cpu")])


def _checked_count(steps: int, denoise: float) -> int:
    count = num_timesteps(denoise)
    if not 1 <= steps <= count:
        raise ValueError(f"steps must be from 1 to {count}, the timesteps there are at denoise {denoise}, not {steps}")
    return count
