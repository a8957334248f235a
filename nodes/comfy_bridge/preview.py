"""Preview of all frames during sampling, as a small animated image on the node; web/preview.js shows it.

ComfyUI's own preview of one frame still runs as its setting says, for programs that use it. Our page script hides it on
a node with the animated one.

Shapes: T frames or latent frames, C channels, H and W latent height and width, R red, green and blue.
"""

from __future__ import annotations

import base64
import io
import time
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .. import host

EVENT = "exvideo.preview"
_INTERVAL = 1.0  # shortest, in seconds, between two previews
_SHARE = 0.03  # largest, of a run's time
_QUALITY = 75  # of WebP, of 100


class AnimatedPreview:
    """Shows the denoised clip after a step; where steps are short, not after each.

    Args:
        node_id: of the sampler, in the prompt that runs.
        latent_format: of the model, with RGB factors.
        rate: latent frames per second.
        steps: of the run; the last is always shown.
    """

    def __init__(self, node_id: str | None, latent_format: Any, rate: float, steps: int) -> None:
        self._node_id, self._format, self._rate, self._steps = node_id, latent_format, rate, steps
        self._next = 0.0  # earliest time of the next preview
        self._begun: float | None = None  # time of the first preview

    def __call__(self, step: int, denoised: Tensor) -> None:
        """After a step, counted from 0; denoised [T, C, H, W] or [1, C, T, H, W], in the network's scale."""
        start = time.monotonic()
        if start < self._next and step + 1 < self._steps:
            return
        self._begun = start if self._begun is None else self._begun
        pictures = to_pictures(denoised, self._format)
        # starts at the frame where the last preview has arrived, so that playback does not jump back
        first = int((start - self._begun) * self._rate) % len(pictures)
        image = base64.b64encode(to_webp(pictures.roll(-first, 0), self._rate)).decode("ascii")
        place = {"step": step + 1, "steps": self._steps, "frames": len(pictures), "first": first}
        host.send_to_page(EVENT, self._node_id, {**place, "image": f"data:image/webp;base64,{image}"})
        now = time.monotonic()
        self._next = now + max(_INTERVAL, (now - start) / _SHARE)


def has_colours(latent_format: Any) -> bool:
    """Whether a latent format has RGB factors for previews."""
    return latent_format.latent_rgb_factors is not None


def to_pictures(denoised: Tensor, latent_format: Any) -> Tensor:
    """Frames of one pixel per latent cell: [T, H, W, R], uint8, on the CPU."""
    latents_TCHW = denoised[0].transpose(0, 1) if denoised.ndim == 5 else denoised
    factors_CR = torch.tensor(latent_format.latent_rgb_factors, dtype=torch.float32)
    factors_CR = factors_CR.to(latents_TCHW.device)
    colours_THWR = latents_TCHW.movedim(1, -1).float() @ factors_CR
    if latent_format.latent_rgb_factors_bias is not None:
        colours_THWR += torch.tensor(latent_format.latent_rgb_factors_bias).to(colours_THWR)
    return ((colours_THWR + 1) * 127.5).nan_to_num(0).clamp(0, 255).to(torch.uint8).cpu()


def to_webp(pictures_THWR: Tensor, rate: float) -> bytes:
    """An animated WebP that loops."""
    first, *others = (Image.fromarray(picture.numpy()) for picture in pictures_THWR)
    file = io.BytesIO()
    first.save(
        file,
        "WEBP",
        save_all=True,
        append_images=others,
        duration=round(1000 / rate),
        loop=0,
        quality=_QUALITY,
        method=0,
    )
    return file.getvalue()
