"""Whether a clip of the SVD demo model pushes into its picture.

Shapes: T frames, L steps of the true motion, C channels, H W height and width, P numbers in a frame.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from exvideo_core.training.procedural.push_in import push_in


def from_file(file: Path, side: int) -> Tensor:
    """The middle square of a picture, [3, side, side] in [-1, 1]."""
    picture = Image.open(file).convert("RGB")
    size = min(picture.size)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    square = picture.crop((left, top, left + size, top + size)).resize((side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 127.5 - 1


def ladder(picture_CHW: Tensor, levels: int = 25) -> Tensor:
    """The picture at evenly spaced progress from 0 to 1: [levels, C, H, W]."""
    return push_in(picture_CHW, torch.linspace(0, 1, levels))


def motion_levels(frames_T3HW: Tensor, ladder_L3HW: Tensor) -> list[int]:
    """Step of the true motion that each frame looks most like."""
    flat_TP, flat_LP = frames_T3HW.flatten(1), ladder_L3HW.flatten(1)
    return torch.cdist(flat_TP, flat_LP, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1).tolist()


def correlation(one: Tensor, other: Tensor) -> float:
    """Correlation of the pixels of two pictures; 1 is equality up to brightness and contrast."""
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def is_monotone(levels: list[int], every: int = 8, slack: int = 1) -> bool:
    """Whether the motion, looked at every few frames, never goes back by more than `slack` levels."""
    seen = levels[::every]
    return all(later >= earlier - slack for earlier, later in pairwise(seen))
