"""Classifier-free guidance (arXiv:2207.12598), with a scale for each frame or each step."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def frame_guidance(num_frames: int, first: float, last: float) -> Tensor:
    """Guidance scale of each frame, rising linearly over the clip.

    Frames far from the conditioning image need more guidance; with as much, the near ones oversaturate
    ("Linearly Increasing Guidance", Stable Video Diffusion, arXiv:2311.15127).

    Args:
        num_frames: T, in pixel frames.
        first: scale of frame 0; 1 turns guidance off.
        last: scale of frame T - 1.

    Returns:
        [T, 1, 1, 1] float32, to broadcast over latents [T, C, H, W].
    """
    return torch.linspace(first, last, num_frames).view(-1, 1, 1, 1)


def rising_guidance(steps: int, scale: float) -> list[float]:
    """Guidance scale of each step: from 1, mostly late, towards `1 + scale` (CogVideoX's "dynamic cfg").

    1 + scale * (1 - cos(pi * (i / N)^5)) / 2 at step i of N. CogVideoX's and diffusers' code use the timestep, 999 to
    0, instead of N - i, so that their scale jumps; here it rises as intended.

    >>> [round(scale, 2) for scale in rising_guidance(5, 6.0)]
    [1.0, 1.0, 1.0, 1.09, 2.45]
    """
    return [1 + scale * (1 - math.cos(math.pi * (step / steps) ** 5)) / 2 for step in range(steps)]


def guide(cond: Tensor, uncond: Tensor, scale: Tensor | float) -> Tensor:
    """Extrapolate from the uncond prediction past the cond one; scale 1 is the cond prediction."""
    return uncond + scale * (cond - uncond)
