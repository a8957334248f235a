"""Whether a clip of the CogVideoX demo model shows what its prompt says.

Shapes: F frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from exvideo_core.training.procedural.shapes import COLOURS, GROUNDS, MOTIONS, SHAPES, SIDE, Scenes, Words, motion_path

_BORDER = 3  # pixels
_DIFFERENT = 0.25  # distance of colours, where black and white are 1.73 apart
_FRAMES_RIGHT = 0.9  # share of the frames that must agree for a word to count
_EVERY = 8  # frames; a shape need not be compared in all of them
_TRACK_ERROR = 8.0  # pixels, a third of the shape's size

# Never trained are three of them.
PROMPTS = (
    Words(0, 0, 0, 1),
    Words(1, 1, 1, 0),
    Words(2, 2, 2, 2),
    Words(3, 0, 3, 3),
    Words(0, 1, 4, 2),
    Words(1, 2, 5, 1),
    Words(2, 0, 1, 3),
    Words(3, 1, 0, 0),
    Words(0, 2, 3, 1),
    Words(0, 0, 1, 0),
    Words(2, 1, 3, 0),
    Words(3, 2, 2, 2),
)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Attributes found in a clip.

    Attributes:
        colour, ground, shape, motion: whether the word is recognised.
        area: of the shape, relative to the truth; median over the frames.
        track_error: mean distance of the shape's middle from where it should be, in pixels.
    """

    colour: bool
    ground: bool
    shape: bool
    motion: bool
    area: float
    track_error: float

    @property
    def is_moving_rightly(self) -> bool:
        """Motion and size both: a smear over the whole way has the right middle."""
        return self.motion and 0.6 <= self.area <= 1.4


def look_at(frames_FHW3: Tensor, words: Words) -> Seen:
    """Compare a clip with its prompt.

    Args:
        frames_FHW3: [F, 96, 96, 3] in [0, 1].
        words: of the prompt.
    """
    frames = frames_FHW3.float()
    truth_FHW = Scenes.typical((words,)).masks(torch.arange(len(frames))[None])[0]
    border_F3 = _border(frames).median(dim=1).values
    mask_FHW = ((frames - border_F3[:, None, None]).norm(dim=-1) > _DIFFERENT).float()
    area_F = mask_FHW.sum(dim=(1, 2))
    seen_F = area_F > 0
    colour_F3 = (frames * mask_FHW[..., None]).sum(dim=(1, 2)) / area_F.clamp(min=1)[:, None]
    track_F2 = _middle(mask_FHW)
    errors_M = torch.stack([_distance(track_F2, motion) for motion in range(len(MOTIONS))])
    some = slice(None, None, _EVERY)
    shapes_S = torch.stack([_likeness(mask_FHW[some], track_F2[some], shape) for shape in range(len(SHAPES))]).argmax(0)
    return Seen(
        colour=_agree(_nearest(colour_F3, COLOURS) == words.colour, seen_F),
        ground=_agree(_nearest(border_F3, GROUNDS) == words.ground, torch.ones_like(seen_F)),
        shape=bool(((shapes_S == words.shape) & seen_F[some]).float().mean() > 0.5),
        motion=bool(errors_M.argmin() == words.motion and errors_M[words.motion] < _TRACK_ERROR),
        area=float((area_F / truth_FHW.sum(dim=(1, 2))).median()),
        track_error=float(errors_M[words.motion]),
    )


def _border(frames_FHW3: Tensor) -> Tensor:
    """Pixels along the four sides, [F, N, 3]."""
    sides = (
        frames_FHW3[:, :_BORDER],
        frames_FHW3[:, -_BORDER:],
        frames_FHW3[:, :, :_BORDER].transpose(1, 2),
        frames_FHW3[:, :, -_BORDER:].transpose(1, 2),
    )
    return torch.cat([side.flatten(1, 2) for side in sides], dim=1)


def _nearest(colour_F3: Tensor, palette: Mapping[str, tuple[int, int, int]]) -> Tensor:
    return torch.cdist(colour_F3, torch.tensor(list(palette.values())) / 255).argmin(dim=1)


def _agree(right_F: Tensor, seen_F: Tensor) -> bool:
    return bool((right_F & seen_F).float().mean() >= _FRAMES_RIGHT)


def _middle(mask_FHW: Tensor) -> Tensor:
    """Middle (x, y) of the marked pixels, [F, 2]; of the frame where there are none."""
    axis = torch.arange(SIDE) + 0.5
    total_F = mask_FHW.sum(dim=(1, 2))
    x_F, y_F = (mask_FHW.sum(dim=over) @ axis / total_F.clamp(min=1) for over in (1, 2))
    middle_F2 = torch.stack([x_F, y_F], dim=-1)
    return torch.where(total_F[:, None] > 0, middle_F2, torch.tensor(SIDE / 2))


def _distance(track_F2: Tensor, motion: int) -> Tensor:
    """Mean distance of a track from a motion's, wherever in the picture both are as a whole."""
    path_F2 = motion_path(motion, torch.arange(len(track_F2)))
    apart_F2 = track_F2 - path_F2
    return (apart_F2 - apart_F2.mean(dim=0)).norm(dim=-1).mean()


def _likeness(mask_FHW: Tensor, track_F2: Tensor, shape: int) -> Tensor:
    """Overlap (intersection over union) with a shape of the same area and middle, for each frame."""
    usual = torch.tensor(22.0)
    area = _still(shape, usual, torch.zeros(2)).sum()
    overlaps = []
    for mask_HW, middle_2 in zip(mask_FHW, track_F2, strict=True):
        radius = usual * torch.sqrt(mask_HW.sum().clamp(min=1) / area)
        offset_2 = middle_2 - SIDE / 2
        # a triangle's middle of area is below that of its height
        offset_2 = offset_2 + middle_2 - _middle(_still(shape, radius, offset_2)[None])[0]
        like_HW = _still(shape, radius, offset_2)
        both = torch.minimum(mask_HW, like_HW).sum()
        overlaps.append(both / torch.maximum(mask_HW, like_HW).sum().clamp(min=1))
    return torch.stack(overlaps)


def _still(shape: int, radius: Tensor, offset_2: Tensor) -> Tensor:
    """A shape so far from the middle of the picture, [H, W]."""
    start_2 = motion_path(0, torch.zeros(1))[0]
    scene = Scenes(words=(Words(0, shape, 0, 0),), radius_B=radius[None], offset_B2=(offset_2 - start_2)[None])
    return scene.masks(torch.zeros(1, 1))[0, 0]
