"""A camera that pushes into a picture, so that the last frame shows the centre 1.25 times larger.

Every frame is a function of the picture, the frame number and the motion bucket alone. Nothing has to be invented at
the borders, no clip returns to where it was, and the true clip is known for any picture.

Shapes: T frames, C channels, H and W height and width (pixels, or latent cells).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ZOOM = 1.25  # enlargement at progress 1
LAST_FRAME = 127  # of the longest clip; its progress is 1 at the full motion bucket
FULL_BUCKET = 127
FULL_RATE = 30  # frames a second


def progress(
    frame_ids: Tensor, motion_bucket_id: Tensor | float = FULL_BUCKET, fps: Tensor | float = FULL_RATE
) -> Tensor:
    """How far the camera has gone at each frame: 0 is the picture itself, 1 the end of a full-motion clip.

    It goes at a steady speed, so fewer frames a second are larger steps.
    """
    return frame_ids * motion_bucket_id * FULL_RATE / (LAST_FRAME * FULL_BUCKET * fps)


def scale_of(progress_T: Tensor) -> Tensor:
    """Side of what the camera sees, as a share of the picture's."""
    return ZOOM**-progress_T


def push_in(picture_CHW: Tensor, progress_T: Tensor) -> Tensor:
    """The picture as the camera sees it at each progress: [T, C, H, W]. Works on latents as well."""
    scale_T = scale_of(progress_T.to(picture_CHW))
    return resample(picture_CHW.expand(len(scale_T), -1, -1, -1), scale_T, torch.zeros(len(scale_T), 2))


def resample(x_TCHW: Tensor, scale_T: Tensor, shift_T2: Tensor) -> Tensor:
    """View a part of each picture at full size.

    Args:
        x_TCHW: pictures or latents.
        scale_T: side of the part, as a share of the picture's.
        shift_T2: its centre's x and y, where the picture reaches from -1 to 1.
    """
    affine_T23 = torch.zeros(len(scale_T), 2, 3, dtype=x_TCHW.dtype)
    affine_T23[:, 0, 0] = affine_T23[:, 1, 1] = scale_T
    affine_T23[:, :, 2] = shift_T2
    # corners are not aligned, so that pixels and latent cells move alike
    grid = F.affine_grid(affine_T23, list(x_TCHW.shape), align_corners=False)
    return F.grid_sample(x_TCHW, grid, mode="bicubic", padding_mode="border", align_corners=False)
