"""Noise levels of a sampling run."""

from __future__ import annotations

import torch
from torch import Tensor

# Range and curvature that Stable Video Diffusion was trained for (arXiv:2311.15127; arXiv:2206.00364, eq. 5).
SIGMA_MIN = 0.002
SIGMA_MAX = 700.0
RHO = 7.0


def karras_sigmas(
    steps: int, denoise: float = 1.0, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO
) -> Tensor:
    """Decreasing noise levels, evenly spaced in sigma^(1 / rho), and a final 0.

    Args:
        steps: model calls. `denoise` does not change their number, as in DiffSynth-Studio 1.1.9.
        denoise: 1 starts from pure noise; less starts part of the way down, to vary a given clip.
        sigma_min: last level before 0.
        sigma_max: first level at `denoise` 1.
        rho: curvature; the higher, the more steps near `sigma_min`.

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
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = (first + ramp * (last - first)) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()
