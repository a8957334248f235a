"""All frames of the clip while it is made, as a small animated picture on the node; web/preview.js shows it.

ComfyUI's own preview, which has one frame, goes on as its setting says, for programs that listen for it. Our page
script hides it on a node that has the animated one, so that a person sees one picture and not two.

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
_SHORTEST = 1.0  # seconds from one picture to the next
_SHARE = 0.03  # of the time of a run, at most
_QUALITY = 75  # of WebP, of 100


class AnimatedPreview:
    """Shows the clip as it looks after a step, not after every one where steps are short.

    Args:
        node_id: of the sampler, in the prompt that runs.
        latent_format: of the model, with the colours of its latents.
        rate: latent frames a second.
        steps: of the run; the last is always shown.
    """

    def __init__(self, node_id: str | None, latent_format: Any, rate: float, steps: int) -> None:
        self._node_id, self._format, self._rate, self._steps = node_id, latent_format, rate, steps
        self._next = 0.0  # when a picture may be made again
        self._begun: float | None = None  # when the first one was shown

    def __call__(self, step: int, denoised: Tensor) -> None:
        """After a step, counted from 0; denoised [T, 4, H, W] or [1, 16, T, H, W], as the network sees them."""
        start = time.monotonic()
        if start < self._next and step + 1 < self._steps:
            return
        self._begun = start if self._begun is None else self._begun
        pictures = to_pictures(denoised, self._format)
        # a new picture starts with the frame that the one before has come to, so that the clip does not jump back
        first = int((start - self._begun) * self._rate) % len(pictures)
        image = base64.b64encode(to_webp(pictures.roll(-first, 0), self._rate)).decode("ascii")
        place = {"step": step + 1, "steps": self._steps, "frames": len(pictures), "first": first}
        host.send_to_page(EVENT, self._node_id, {**place, "image": f"data:image/webp;base64,{image}"})
        now = time.monotonic()
        self._next = now + max(_SHORTEST, (now - start) / _SHARE)


def has_colours(latent_format: Any) -> bool:
    """Whether anybody knows what these latents look like."""
    return latent_format.latent_rgb_factors is not None


def to_pictures(denoised: Tensor, latent_format: Any) -> Tensor:
    """One pixel for each latent cell: [T, H, W, R], uint8, in main memory."""
    latents_TCHW = denoised[0].transpose(0, 1) if denoised.ndim == 5 else denoised
    factors_CR = torch.tensor(latent_format.latent_rgb_factors, dtype=torch.float32)
    factors_CR = factors_CR.to(latents_TCHW.device)
    colours_THWR = latents_TCHW.movedim(1, -1).float() @ factors_CR
    if latent_format.latent_rgb_factors_bias is not None:
        colours_THWR += torch.tensor(latent_format.latent_rgb_factors_bias).to(colours_THWR)
    return ((colours_THWR + 1) * 127.5).nan_to_num(0).clamp(0, 255).to(torch.uint8).cpu()


def to_webp(pictures_THWR: Tensor, rate: float) -> bytes:
    """An animated WebP that plays for ever."""
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
