"""Classifier-free guidance (arXiv:2207.12598), with a scale for each frame."""

from __future__ import annotations

import torch
from torch import Tensor


def frame_guidance(num_frames: int, first: float, last: float) -> Tensor:
    """Guidance scale of each frame, rising linearly over the clip.

    Frames far from the conditioning image need more guidance, the near ones oversaturate
    ("Linearly Increasing Guidance", Stable Video Diffusion, arXiv:2311.15127).

    Args:
        num_frames: T, in pixel frames.
        first: scale of frame 0; 1 turns guidance off.
        last: scale of frame T - 1.

    Returns:
        [T, 1, 1, 1] float32, to broadcast over latents [T, C, H, W].
    """
    return torch.linspace(first, last, num_frames).view(-1, 1, 1, 1)


def guide(positive: Tensor, negative: Tensor, scale: Tensor) -> Tensor:
    """Move from the negative prediction past the positive one; at scale 1 this is the positive one."""
    return negative + scale * (positive - negative)
