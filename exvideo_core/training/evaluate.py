"""Measures of a clip that need no network: does it move, flicker, return to old frames, freeze, fade.

Frames are [T, 3, H, W] in [-1, 1] throughout. Each measure moves on its own defect and hardly on the others.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise

import torch
from torch import Tensor

_RETURN = 4  # frames; a clip that looks as it did this long ago or longer is in a loop


@dataclass(frozen=True, kw_only=True)
class Measures:
    """One clip, measured."""

    difference: float  # mean absolute difference of neighbouring frames: motion and flicker together
    acceleration: float  # about 1.5 and more is flicker or noise, steady motion is below 1
    loop: float  # distance to the nearest earlier frame over that to the previous: 0 is an old frame coming back
    freeze: float  # share of frames that are (almost) the previous one
    contrast: float  # spread of the last eight frames over that of the first eight
    drift: float  # mean colour of the last eight frames against the first eight

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.3f}" for name, value in asdict(self).items())


def measure(frames_T3HW: Tensor) -> Measures:
    """Measure a clip of at least six frames."""
    steps = frames_T3HW.diff(dim=0)
    distance_TT = _distances(frames_T3HW)
    step_T = distance_TT.diagonal(offset=1)
    ratios = [
        distance_TT[t, : t - _RETURN + 1].min() / distance_TT[t, t - 1].clamp_min(1e-8)
        for t in range(_RETURN, len(frames_T3HW))
    ]
    first, last = frames_T3HW[:8], frames_T3HW[-8:]
    return Measures(
        difference=float(steps.abs().mean()),
        acceleration=float(steps.diff(dim=0).square().sum() / steps[1:].square().sum().clamp_min(1e-12)) ** 0.5,
        loop=float(torch.stack(ratios).median()),
        freeze=float((step_T < 0.1 * step_T.mean()).float().mean()),
        contrast=float(last.flatten(1).std(dim=1).mean() / first.flatten(1).std(dim=1).mean()),
        drift=float((last.mean(dim=(0, 2, 3)) - first.mean(dim=(0, 2, 3))).abs().mean()),
    )


def _distances(frames_T3HW: Tensor) -> Tensor:
    """Root mean squared difference of every two frames: [T, T]."""
    flat_TP = frames_T3HW.flatten(1)
    return torch.cdist(flat_TP, flat_TP, compute_mode="donot_use_mm_for_euclid_dist") / flat_TP.shape[1] ** 0.5


def motion_levels(frames_T3HW: Tensor, ladder_L3HW: Tensor) -> list[int]:
    """For each frame the step of the true motion it looks most like."""
    flat_TP, flat_LP = frames_T3HW.flatten(1), ladder_L3HW.flatten(1)
    return torch.cdist(flat_TP, flat_LP, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1).tolist()


def correlation(one: Tensor, other: Tensor) -> float:
    """Of the pixels of two pictures; 1 is equality up to brightness and contrast."""
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def is_monotone(levels: list[int], every: int = 8, slack: int = 1) -> bool:
    """Whether the motion, looked at every few frames, never goes back by more than `slack` levels."""
    seen = levels[::every]
    return all(later >= earlier - slack for earlier, later in pairwise(seen))
