"""Inputs of a pipeline: pictures, noise, devices, names of methods and attention, and their checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ..errors import ClipError, ExVideoError
from ..nn.attention import BACKENDS, Attention
from ..nn.attention.backends import PACKAGES, package_of

T = TypeVar("T")
Picture = Image.Image | Tensor  # PIL, or float [H, W, 3] in [0, 1]
OutputType = Literal["frames", "latents"]  # what a pipeline returns; latents are decoded apart
Devices = str | torch.device | Sequence[str | torch.device] | None  # see `chosen_devices`


def draw_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Unit noise, float32, drawn on the CPU so that every machine gets the same."""
    return SeededNoise(shape, seed)()


class SeededNoise:
    """A source of unit noise, new at each call; the first is `draw_noise`. Its state can be saved and restored."""

    is_whole_in_steps = True

    def __init__(self, shape: Sequence[int], seed: int) -> None:
        self.shape, self._generator = tuple(shape), torch.Generator().manual_seed(seed)

    def __call__(self) -> Tensor:
        return torch.randn(self.shape, generator=self._generator)

    def state(self) -> dict[str, Tensor]:
        return {"generator": self._generator.get_state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._generator.set_state(state["generator"])


def given_or_drawn(name: str, given: Tensor | None, draw: SeededNoise) -> Tensor:
    """Unit noise: the given one, if it has the right shape, or the next one of a source.

    It is drawn in any case, so that later draws do not depend on what is given.
    """
    drawn = draw()
    if given is None:
        return drawn
    if tuple(given.shape) != draw.shape:
        raise ValueError(f"{name} has the shape {list(given.shape)}; {list(draw.shape)} is needed")
    return given


def check_init_video(init_video: Sequence[Picture] | None, num_frames: int, denoise: float) -> None:
    """Raise ClipError unless `init_video` has all frames, and is there if `denoise` needs it."""
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
    """The choice of that name; raises ExVideoError if there is none."""
    if name not in choices:
        raise ExVideoError(f"{what} {name!r} is unknown; choose one of {', '.join(choices)}.")
    return choices[name]


def attention_named(name: str) -> Attention:
    """A backend of `exvideo_core.nn.attention`; ExVideoError if there is none, or its package is not installed."""
    backend = named("attention", name, BACKENDS)
    if name in PACKAGES:
        package_of(name)  # raises before gigabytes are read
    return backend


def chosen_devices(device: Devices) -> list[torch.device]:
    """The device or the two devices, each with its index; None is CUDA if there is one.

    Args:
        device: such as "cuda:1", "cuda:0,cuda:1" or a list of two: one for each branch of guidance.
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
    except (RuntimeError, AssertionError) as error:  # the latter if PyTorch was built without CUDA
        reason = str(error).partition("\n")[0]
        raise ExVideoError(
            f"device {str(name)!r} cannot be used ({reason}). Choose another, such as cuda:0."
        ) from error
