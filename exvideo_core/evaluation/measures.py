"""Measures of a clip that need no network: does it move, flicker, return to old frames, freeze, fade, drift, blur.

Frames are [T, 3, H, W] in [-1, 1] throughout, of any float type. Each measure reacts to its own defect and hardly to
the others. They compare a clip with itself: none knows what it should show. Prototyped on synthetic clips; the
curves along the clip follow LV-Bench's idea of a drift error (quality by chunks), without its networks.

Memory: one frame at a time in float32, and the T x T distances of frame pairs.
Shapes: T frames, S = T - 1 steps from one frame to the next, H and W in pixels, P numbers in a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import VideoError
from ..video import VideoInfo, read_video

LONGEST_SIDE = 256  # pixels, of the frames that `read_reduced` keeps
FEWEST_FRAMES = 6
MOST_FRAMES = 1024  # that `read_reduced` keeps: 0.4 GB
CHUNK = 16  # frames
_RETURN = 4  # frames; a clip that looks as it did this long ago or longer is in a loop
_EDGE = 8  # frames, at either end, that are compared for contrast, drift and sharpness
_STILL = 5e-4  # root mean square of a step that nobody sees: one in 240 numbers changed by one of 255 levels


@dataclass(frozen=True, kw_only=True)
class Measures:
    """One clip, measured; all numbers are finite."""

    difference: float  # mean absolute difference of neighbouring frames: motion and flicker together
    acceleration: float  # about 1.5 and more is flicker or noise, steady motion is below 1
    loop: float  # distance to the nearest earlier frame over that to the previous: 0 is an old frame coming back
    freeze: float  # share of frames that are (almost) the previous one
    contrast: float  # spread of the last eight frames over that of the first eight
    drift: float  # mean colour of the last eight frames against the first eight
    sharpness: float  # gradients of the last eight frames, for their contrast, over those of the first eight

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.3f}" for name, value in asdict(self).items())


# Usual range of each measure, the upper end excluded. Set on synthetic clips; `difference`
# has none: it depends on the motion.
USUAL: dict[str, tuple[float, float]] = {
    "acceleration": (0, 1.5),
    "loop": (0.5, float("inf")),
    "freeze": (0, 0.1),
    "contrast": (0.85, 1.15),
    "drift": (0, 0.1),
    "sharpness": (0.8, 1.25),
}


@dataclass(frozen=True, kw_only=True)
class ClipCurves:
    """How a clip changes along its length: a number for each chunk of neighbouring frames.

    A remainder of less than half a chunk belongs to the last chunk.
    """

    starts: tuple[int, ...]  # first frame of each chunk
    middles: tuple[float, ...]  # middle frame of each chunk
    difference: tuple[float, ...]  # mean absolute difference of neighbouring frames
    drift: tuple[float, ...]  # mean colour against the first chunk, as in `Measures`
    contrast: tuple[float, ...]  # spread over that of the first chunk
    sharpness: tuple[float, ...]  # gradients for the contrast, over those of the first chunk


def read_reduced(
    path: Path, info: VideoInfo, progress: Callable[[int, int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """Read a video, each frame averaged over areas down to LONGEST_SIDE pixels on its longer side.

    Args:
        path: a file that `read_video` reads.
        info: what `probe` said about it.
        progress: called with (frames read, all frames) after each.

    Returns:
        [T, 3, H, W] float16 in [-1, 1], and the `sharpness` [T] of the frames at their full size: reducing hides blur.
        VideoError if it cannot be read, or is shorter than FEWEST_FRAMES or longer than MOST_FRAMES.
    """
    check_length(info.num_frames, path.name)
    if info.num_frames > MOST_FRAMES:
        raise VideoError(
            f"{path.name} has {info.num_frames} frames; at most {MOST_FRAMES} are measured. Cut it into parts."
        )
    width, height = reduced_size(info.width, info.height)
    # made at once: frames kept one by one between large temporaries take 3 GB, not 0.2 (glibc, 128 frames 1024x1024)
    frames_T3HW = torch.empty(info.num_frames, 3, height, width, dtype=torch.float16)
    sharpness_T = torch.empty(info.num_frames)
    for index, frame_HWC in enumerate(read_video(path)):
        frame_3HW = torch.from_numpy(frame_HWC).permute(2, 0, 1).float() * (2 / 255) - 1
        sharpness_T[index] = sharpness(frame_3HW)
        frames_T3HW[index] = F.interpolate(frame_3HW[None], (height, width), mode="area")[0]
        if progress is not None:
            progress(index + 1, info.num_frames)
    return frames_T3HW, sharpness_T


def check_length(num_frames: int, name: str = "the clip") -> None:
    """Raise VideoError unless a clip of so many frames can be measured."""
    if num_frames < FEWEST_FRAMES:
        raise VideoError(f"{name} has {num_frames} frames; measuring needs at least {FEWEST_FRAMES}.")


def reduced_size(width: int, height: int) -> tuple[int, int]:
    """Width and height in pixels at which a video of this size is measured."""
    scale = min(1.0, LONGEST_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def measure(frames_T3HW: Tensor, sharpness_T: Tensor | None = None) -> Measures:
    """Measure a clip of at least six frames; VideoError if it has fewer.

    A clip that is frozen at its end also has a `loop` of 0: its last frames are old ones.

    Args:
        frames_T3HW: the clip, in [-1, 1].
        sharpness_T: of its frames before they were reduced; None finds it in the frames.
    """
    facts = _Facts(frames_T3HW, sharpness_T)
    step_S = facts.step_S.clamp_min(_STILL)
    distance_TT = _distances(frames_T3HW)
    ratios = [distance_TT[t, : t - _RETURN + 1].min() / step_S[t - 1] for t in range(_RETURN, len(frames_T3HW))]
    first, last = slice(None, _EDGE), slice(-_EDGE, None)
    return Measures(
        difference=float(facts.difference_S.mean()),
        acceleration=float(facts.bend_S.square().sum() / step_S[1:].square().sum()) ** 0.5,
        loop=float(torch.stack(ratios).median()),
        freeze=float((facts.step_S < max(0.1 * float(facts.step_S.mean()), _STILL)).float().mean()),
        contrast=_ratio(facts.spread_T, last, first),
        drift=_drift(facts.colour_T3, last, first),
        sharpness=_ratio(facts.sharpness_T, last, first),
    )


def curves(frames_T3HW: Tensor, chunk: int = CHUNK, sharpness_T: Tensor | None = None) -> ClipCurves:
    """Measure a clip of at least six frames along its length, in chunks of so many frames.

    Arguments and errors as in `measure`; a chunk of less than 2 frames is a ValueError. A step belongs to the chunk of
    its second frame.
    """
    if chunk < 2:
        raise ValueError(f"{chunk=} must be at least 2 frames")
    facts = _Facts(frames_T3HW, sharpness_T)
    num_frames = len(frames_T3HW)
    starts = [start for start in range(0, num_frames, chunk) if start == 0 or 2 * (num_frames - start) >= chunk]
    parts = [slice(start, end) for start, end in pairwise([*starts, num_frames])]
    steps = [slice(max(part.start - 1, 0), part.stop - 1) for part in parts]
    return ClipCurves(
        starts=tuple(starts),
        middles=tuple((part.start + part.stop - 1) / 2 for part in parts),
        difference=tuple(float(facts.difference_S[part].mean()) for part in steps),
        drift=tuple(_drift(facts.colour_T3, part, parts[0]) for part in parts),
        contrast=tuple(_ratio(facts.spread_T, part, parts[0]) for part in parts),
        sharpness=tuple(_ratio(facts.sharpness_T, part, parts[0]) for part in parts),
    )


def sharpness(frame_3HW: Tensor) -> Tensor:
    """Root mean square of a picture's gradients, per pixel and for its own spread. [].

    Blur lowers it and fading does not. (The mean length would not do: a blurred edge is as high as before, only wider.)
    Comparable only between pictures of one size.
    """
    across = frame_3HW.diff(dim=2, append=frame_3HW[:, :, -1:])
    down = frame_3HW.diff(dim=1, append=frame_3HW[:, -1:])
    return (across.square() + down.square()).mean().sqrt() / (_spread(frame_3HW) + _STILL)


class _Facts:
    """Statistics of each frame and each step, in float32."""

    def __init__(self, frames_T3HW: Tensor, sharpness_T: Tensor | None) -> None:
        check_length(len(frames_T3HW))

        def frames() -> Iterator[Tensor]:
            return (frame_3HW.float() for frame_3HW in frames_T3HW)

        def steps() -> Iterator[Tensor]:
            return _changes(frames())

        self.colour_T3 = _of_each(frames(), lambda frame: frame.mean(dim=(1, 2)))
        self.spread_T = _of_each(frames(), _spread)  # within each colour
        self.sharpness_T = _of_each(frames(), sharpness) if sharpness_T is None else sharpness_T
        self.difference_S = _of_each(steps(), lambda step: step.abs().mean())
        self.step_S = _of_each(steps(), _root_mean_square)
        self.bend_S = _of_each(_changes(steps()), _root_mean_square)  # of a step from the previous; [S - 1]


def _changes(values: Iterator[Tensor]) -> Iterator[Tensor]:
    return (value - previous for previous, value in pairwise(values))


def _of_each(values: Iterator[Tensor], statistic: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([statistic(value) for value in values])


def _root_mean_square(numbers: Tensor) -> Tensor:
    return numbers.square().mean().sqrt()


def _spread(frame_3HW: Tensor) -> Tensor:
    """Standard deviation around the mean of each colour, which may drift without changing it."""
    return _root_mean_square(frame_3HW - frame_3HW.mean(dim=(1, 2), keepdim=True))


def _ratio(values_T: Tensor, part: slice, reference: slice) -> float:
    """Mean of a part over that of another; equal nothings, such as the contrast of two black clips, are 1."""
    tiny = 1e-5
    return float((values_T[part].mean() + tiny) / (values_T[reference].mean() + tiny))


def _drift(colour_T3: Tensor, part: slice, reference: slice) -> float:
    return float((colour_T3[part].mean(dim=0) - colour_T3[reference].mean(dim=0)).abs().mean())


def _distances(frames_T3HW: Tensor) -> Tensor:
    """Root mean squared difference of every two frames: [T, T], from dot products over a block of pixels at a time."""
    flat_TP = frames_T3HW.flatten(1)
    products_TT = flat_TP.new_zeros(len(flat_TP), len(flat_TP), dtype=torch.float64)
    for block in flat_TP.split(8192, dim=1):
        block = block.double()  # float32: a small distance is the difference of two large products
        products_TT += block @ block.T
    squares_T = products_TT.diagonal()
    squared_TT = squares_T[:, None] + squares_T[None] - 2 * products_TT
    return (squared_TT.clamp_min(0) / flat_TP.shape[1]).sqrt().float()
