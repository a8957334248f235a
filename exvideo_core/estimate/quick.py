"""One line about a model that was just loaded: operations by formula instead of by counting, which takes seconds.

Shapes: T frames, C channels of a level, L cells of a frame on that level.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..families.cogvideox.config import TransformerConfig
from ..families.cogvideox.vae import SPATIAL_FACTOR
from ..families.svd.config import UNetConfig
from .jobs import Clip, gigabytes, of_time
from .speed import Speed, Work, probe, seconds

_TEXT_TOKENS = 226  # tokens of CogVideoX's text
# Bytes that elementwise operations move for each byte of a block's result, by count (tests/core/estimate).
_MOVED_BY_CONVOLUTIONS = 60
_MOVED_BY_TRANSFORMER = 125
_MOVED_BY_EXTENSION = 12
_MOVED_BY_COGVIDEOX_LAYER = 78


def svd_call(config: UNetConfig, frames: int, height: int, width: int, itemsize: int = 2) -> Work:
    """One call of SVD's UNet; height and width are in latent cells, `itemsize` is that of a number, in bytes."""
    blocks = _Blocks(frames, height * width, bool(config.extension_frames), itemsize)
    channels, skips = config.widths[0], [config.widths[0]]
    work = Work(convolutions=18 * frames * height * width * channels * (config.in_channels + config.out_channels))
    last = len(config.widths) - 1
    for level, width_C in enumerate(config.widths):
        for _ in range(config.blocks_per_level):
            work += blocks.residual(level, channels, width_C)
            channels = width_C
            skips.append(channels)
            if level in config.attention_levels:
                work += blocks.transformer(level, channels)
        if level < last:
            work += blocks.sampling(level + 1, channels, taps=9)
            skips.append(channels)
    work += blocks.residual(last, channels, channels) * 2 + blocks.transformer(last, channels)
    for level, width_C in reversed(list(enumerate(config.widths))):
        for _ in range(config.blocks_per_level + 1):
            work += blocks.residual(level, channels + skips.pop(), width_C)
            channels = width_C
            if level in config.attention_levels:
                work += blocks.transformer(level, channels)
        if level:
            work += blocks.sampling(level, channels, taps=16)  # four convolutions of 2x2, at the lower size
    return work


class _Blocks:
    """Work of the UNet's blocks for one size of clip."""

    def __init__(self, frames: int, cells: int, is_extended: bool, itemsize: int) -> None:
        self.frames, self.cells, self.is_extended, self.itemsize = frames, cells, is_extended, itemsize

    def _cells(self, level: int) -> float:
        return self.cells / 4**level

    def residual(self, level: int, channels: int, out_channels: int) -> Work:
        """Two convolutions of 3x3, a shortcut where widths differ, and two of 3 over time."""
        rows = self.frames * self._cells(level)
        taps = channels * out_channels * (9 + (channels != out_channels)) + out_channels**2 * (9 + 2 * 3)
        return Work(convolutions=2 * rows * taps, moved=_MOVED_BY_CONVOLUTIONS * rows * out_channels * self.itemsize)

    def transformer(self, level: int, channels: int) -> Work:
        """Over cells and over frames; three feed-forwards of 12 C^2, two attentions of 4 C^2, two layers around."""
        cells = self._cells(level)
        rows = self.frames * cells
        return Work(
            products=2 * rows * channels**2 * (3 * 12 + 2 * 4 + 2),
            convolutions=2 * rows * channels**2 * 27 * self.is_extended,
            attention=4 * rows * channels * (cells + self.frames),
            moved=(_MOVED_BY_TRANSFORMER + _MOVED_BY_EXTENSION * self.is_extended) * rows * channels * self.itemsize,
        )

    def sampling(self, low_level: int, channels: int, taps: int) -> Work:
        """A step between levels."""
        return Work(convolutions=2 * self.frames * self._cells(low_level) * channels**2 * taps)


def cogvideox_call(config: TransformerConfig, frames: int, height: int, width: int, itemsize: int = 2) -> Work:
    """One call of CogVideoX's transformer; sizes are in latent frames and cells."""
    tokens = frames * height * width // config.patch**2 + _TEXT_TOKENS
    layer = Work(
        products=2 * tokens * config.width * (4 * config.width + 2 * config.hidden),
        attention=4 * tokens**2 * config.width,
        moved=_MOVED_BY_COGVIDEOX_LAYER * tokens * config.width * itemsize,
    )
    return layer * config.layers


# Bytes of a call beside the weights, from frames (or latent frames), latent height and width.
Activations = Callable[[int, int, int], float]


def svd_line(
    config: UNetConfig, dtype: torch.dtype, device: torch.device, *, weights: float, activations: Activations
) -> str:
    """Of the clip most people make: the extension's length, or 25 frames, of 512x512, in 50 steps with guidance.

    Args:
        config: sizes of the UNet.
        dtype: what it computes in.
        device: where.
        weights: bytes.
        activations: see there.
    """
    clip = Clip(frames=config.extension_frames or 25, height=512, width=512, steps=50)
    size = clip.frames, clip.height // SPATIAL_FACTOR, clip.width // SPATIAL_FACTOR
    return _line(clip, svd_call(config, *size, dtype.itemsize), probe(device, dtype), weights, activations(*size))


def cogvideox_line(
    config: TransformerConfig, dtype: torch.dtype, device: torch.device, *, weights: float, activations: Activations
) -> str:
    """Likewise, of 129 frames of 720x480."""
    clip = Clip(frames=129, height=480, width=720, steps=50)
    size = clip.latent_frames, clip.height // SPATIAL_FACTOR, clip.width // SPATIAL_FACTOR
    return _line(clip, cogvideox_call(config, *size, dtype.itemsize), probe(device, dtype), weights, activations(*size))


def _line(clip: Clip, call: Work, speed: Speed, weights: float, activations: float) -> str:
    work = call * clip.calls
    return (
        f"{clip.frames} frames of {clip.width}x{clip.height} in {clip.steps} steps take about "
        f"{of_time(seconds(work, speed))} here ({work.flops / 1e15:.3g} PFLOP), {gigabytes(weights)} for weights and "
        f"{gigabytes(activations)} beside them"
    )
