"""Latents that the demo's encoder is taught: small pictures, which a transformer learns easily.

Shapes: B scenes, C channels, F frames, T latent frames, H W height and width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from exvideo_core.families.cogvideox.procedural import cells
from exvideo_core.training.procedural.shapes import TRAINED, Scenes


def small_pictures(frames_BCFHW: Tensor) -> Tensor:
    """Latents of whole clips, scaled; see `cells`.

    Args:
        frames_BCFHW: [B, 3, F, H, W]; F is 4 (T - 1) + 1.

    Returns:
        [B, 16, T, H / 8, W / 8], about unit variance.
    """
    count = frames_BCFHW.shape[2]
    newest = torch.arange(0, count, 4)
    return cells(frames_BCFHW[:, :, newest], frames_BCFHW[:, :, (newest - 2).clamp(min=0)])


def preview_factors() -> Tensor:
    """Factors that make colours of `small_pictures`, for previews while sampling: [16, 3], to RGB in [-1, 1]."""
    scenes = Scenes.typical(TRAINED[:: len(TRAINED) // 16])
    frames = scenes.frames(torch.arange(1).expand(len(scenes.words), 1))
    small_NC = rearrange(small_pictures(frames), "B C T H W -> (B T H W) C")
    colours_N3 = rearrange(F.avg_pool3d(frames, (1, 8, 8)), "B C T H W -> (B T H W) C")
    # the ridge keeps channels that say nothing here out of it
    square_CC = small_NC.mT @ small_NC + 1e-3 * torch.eye(small_NC.shape[1])
    return torch.linalg.solve(square_CC, small_NC.mT @ colours_N3)
