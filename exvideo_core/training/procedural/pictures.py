"""Pictures to train on: drawn "dead leaves", and photographs that are free to use.

The photographs come inside the wheels of scikit-image and matplotlib; the astronaut is not among them, because it is
the demo's input. Shapes: N pictures, H and W pixels.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from ..randomness import uniform

# files inside installed packages, and why we may use them
_PHOTOGRAPHS = {
    "skimage": [
        *("data/camera.png", "data/chelsea.png", "data/coffee.png", "data/brick.png"),  # CC0
        *("data/grass.png", "data/gravel.png", "data/retina.jpg"),  # CC0
        "data/hubble_deep_field.jpg",  # public domain (NASA)
        "data/rocket.jpg",  # public domain (SpaceX)
        "data/clock_motion.png",  # public domain
        "data/coins.png",  # no known copyright restrictions (Brooklyn Museum)
        "data/ihc.png",  # no known copyright restrictions
    ],
    "matplotlib": ["mpl-data/sample_data/grace_hopper.jpg"],  # public domain (US Navy)
}
# the ones with faces, animals and things, which look most like what people try first
_FAVOURED = {"camera.png", "chelsea.png", "coffee.png", "rocket.jpg", "grace_hopper.jpg"}


def photographs() -> list[Image.Image]:
    """The photographs in RGB, the favoured ones three times."""
    pictures: list[Image.Image] = []
    for package, paths in _PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(
                f"training the demo model needs the package {package} for its pictures: install it with pip"
            )
        for path in paths:
            file = Path(spec.origin).parent / path
            pictures += [Image.open(file).convert("RGB")] * (3 if file.name in _FAVOURED else 1)
    return pictures


def dead_leaves(seed: int, side: int = 256) -> Image.Image:
    """Overlapping shapes whose sizes follow a power law, as objects in photographs do."""
    draw = np.random.default_rng(seed)
    base = draw.integers(0, 256, 3)
    slope_x, slope_y = draw.uniform(-60, 60, 2)
    ramp = np.linspace(-1, 1, side)
    shading = slope_x * ramp[None, :] + slope_y * ramp[:, None]
    picture = Image.fromarray((base + shading[..., None]).clip(0, 255).astype(np.uint8))
    canvas = ImageDraw.Draw(picture)
    exponent = draw.uniform(1.3, 3.0)
    for _ in range(int(np.exp(draw.uniform(np.log(8), np.log(200))))):
        radius = min(side * 0.5, 4.0 * (1.0 - draw.random()) ** (-1.0 / exponent) * side / 128)
        _leaf(canvas, draw, side, radius)
    if draw.random() < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(draw.uniform(0.5, 3.0)))
    pixels = np.asarray(picture, dtype=np.float32) + _texture(draw, side)[..., None] * draw.uniform(0, 30)
    grey = pixels.mean(-1, keepdims=True)
    # shapes in random colours are far more colourful than the world
    pixels = grey + (pixels - grey) * draw.uniform(0.1, 0.5)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _leaf(canvas: ImageDraw.ImageDraw, draw: np.random.Generator, side: int, radius: float) -> None:
    x, y = draw.uniform(0, side, 2)
    colour = tuple(int(c) for c in draw.integers(0, 256, 3))
    aspect = draw.uniform(0.4, 1.0)
    if draw.random() < 0.4:
        canvas.ellipse((x - radius, y - radius * aspect, x + radius, y + radius * aspect), fill=colour)
        return
    corners = int(draw.integers(3, 9))
    angles = np.sort(draw.uniform(0, 2 * np.pi, corners))
    reach = radius * draw.uniform(0.4, 1.2, corners)
    points = np.stack([x + reach * np.cos(angles), y + aspect * reach * np.sin(angles)], axis=1)
    canvas.polygon([(float(a), float(b)) for a, b in points], fill=colour)


def _texture(draw: np.random.Generator, side: int) -> np.ndarray:
    """Noise whose amplitude falls with frequency, unit variance."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(draw.standard_normal((side, side))) / frequency ** draw.uniform(0.5, 1.5)
    noise: np.ndarray = np.fft.irfft2(spectrum, s=(side, side)).astype(np.float32)
    return noise / noise.std()


class Pictures:
    """Random crops of leaves and photographs, with their colours and sides varied."""

    def __init__(self, leaves: int = 120, seed: int = 0, *, photos: bool = True) -> None:
        self.leaf_share = 0.35 if photos else 1.0
        self.leaves = [_pixels(dead_leaves(seed * 100_003 + i)) for i in range(leaves)]
        self.photographs = [_pixels(picture) for picture in photographs()] if photos else []

    def crops(self, count: int, side: int, generator: torch.Generator) -> Tensor:
        """Different pictures: [N, 3, side, side] in [-1, 1]."""
        crops = torch.stack([self._crop(side, generator) for _ in range(count)])
        return _recoloured(crops, generator)

    def _crop(self, side: int, generator: torch.Generator) -> Tensor:
        kind = self.leaves if uniform(generator) < self.leaf_share else self.photographs
        picture = kind[int(uniform(generator) * len(kind))]
        shortest = min(picture.shape[1:])
        # side to the whole picture, evenly in the logarithm
        size = int(side * (shortest / side) ** uniform(generator)) if shortest > side else shortest
        top, left = (int(uniform(generator) * (length - size + 1)) for length in picture.shape[1:])
        part = picture[None, :, top : top + size, left : left + size].float() / 127.5 - 1
        part = F.interpolate(part, size=(side, side), mode="bilinear", antialias=size > side)[0]
        return part.flip(-1) if uniform(generator) < 0.5 else part


def _recoloured(x_N3HW: Tensor, generator: torch.Generator) -> Tensor:
    count = len(x_N3HW)

    def each(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)

    unit = ((x_N3HW + 1) / 2).clamp(0, 1) ** torch.exp(each(-0.3, 0.3))
    mean = unit.mean(dim=(1, 2, 3), keepdim=True)
    unit = mean + (unit - mean) * each(0.75, 1.3) + each(-0.08, 0.08)
    grey = unit.mean(dim=1, keepdim=True)
    unit = grey + (unit - grey) * each(0.4, 1.1)
    if uniform(generator) < 0.1:
        unit = unit[:, torch.randperm(3, generator=generator)]
    return (unit * 2 - 1).clamp(-1, 1)


def _pixels(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
