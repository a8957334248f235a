"""What the pipelines are given: pictures, noise, places to compute; and what they refuse in the same words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from ..errors import ClipError, ExVideoError, NumberError
from ..nn.attention import BACKENDS, Attention
from ..nn.attention.backends import PACKAGES, package_of
from ..nn.nan_check import describe_nonfinite, is_finite

T = TypeVar("T")
Picture = Image.Image | Tensor  # PIL, or float [H, W, 3] in [0, 1]
Place = str | torch.device | Sequence[str | torch.device] | None  # see `chosen_devices`


def draw_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Unit noise, float32, drawn on the CPU so that every machine gets the same."""
    return noise_source(shape, seed)()


def noise_source(shape: Sequence[int], seed: int) -> SeededNoise:
    """A function that draws new unit noise at each call, the first being `draw_noise`."""
    return SeededNoise(shape, seed)


class SeededNoise:
    """See `noise_source`; it can go on where another one was."""

    is_whole_in_steps = True

    def __init__(self, shape: Sequence[int], seed: int) -> None:
        self._shape, self._generator = tuple(shape), torch.Generator().manual_seed(seed)

    def __call__(self) -> Tensor:
        return torch.randn(self._shape, generator=self._generator)

    def state(self) -> dict[str, Tensor]:
        return {"generator": self._generator.get_state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._generator.set_state(state["generator"])


def checked_noise(name: str, noise: Tensor, shape: Sequence[int]) -> Tensor:
    """The noise itself, if it has the shape."""
    if tuple(noise.shape) != tuple(shape):
        raise ValueError(f"{name} has the shape {list(noise.shape)}; {list(shape)} is needed")
    return noise


def check_init_video(init_video: Sequence[Picture] | None, num_frames: int, denoise: float) -> None:
    """Raise ClipError unless a video to start from is there where it is needed, and has all frames."""
    if init_video is not None and len(init_video) != num_frames:
        raise ClipError(
            f"the video to start from has {len(init_video)} frames, but {num_frames} are asked for. "
            f"Set num_frames to {len(init_video)}, or cut the video."
        )
    if denoise < 1 and init_video is None:
        raise ClipError(
            f"denoise {denoise} changes a given video, but init_video is missing. Give one, or set it to 1."
        )


def named(what: str, name: str, choices: Mapping[str, T]) -> T:
    """What the name stands for.

    Raises:
        ExVideoError: for nothing.
    """
    if name not in choices:
        raise ExVideoError(f"{what} {name!r} is unknown; choose one of {', '.join(choices)}.")
    return choices[name]


def check_finite(latents: Tensor) -> None:
    """Raise NumberError if what is done after a network, in the last step and behind it, has ended in no numbers."""
    if not is_finite(latents):
        raise NumberError(
            f"after the last step the latents hold {describe_nonfinite(latents)}. The guidance scale or the contrast "
            f"is too large, or all cells of a frame are alike and cannot be normalised (turn that off). With a model "
            f"that was not loaded by ExVideo, float16 may have overflowed: load it in bf16 or fp32."
        )


def attention_named(name: str) -> Attention:
    """A backend of `exvideo_core.nn.attention`, or ExVideoError: also where its package is not installed."""
    if name not in BACKENDS:
        raise ExVideoError(f"attention {name!r} is unknown; choose one of {', '.join(BACKENDS)}.")
    if name in PACKAGES:
        package_of(name)  # said now, and not after gigabytes were read
    return BACKENDS[name]


def chosen_devices(device: Place) -> list[torch.device]:
    """The device or two, each with its number, or CUDA where there is one.

    Args:
        device: such as "cuda:1", "cuda:0,cuda:1" or a list of two: one for each branch of the guidance.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    names = device.split(",") if isinstance(device, str) else [device] if isinstance(device, torch.device) else device
    if not 1 <= len(names) <= 2:
        raise ExVideoError(f"{len(names)} devices were given, but guidance has two branches: give one device or two.")
    return [_usable(name) for name in names]


def _usable(name: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=name.strip() if isinstance(name, str) else name).device
    except (RuntimeError, AssertionError) as error:  # the latter where PyTorch was built without CUDA
        reason = str(error).partition("\n")[0]
        raise ExVideoError(
            f"device {str(name)!r} cannot be used ({reason}). Choose another, such as cuda:0."
        ) from error
