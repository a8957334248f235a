"""A whole clip, counted network by network on the meta device: a few seconds for the published sizes.

What the networks are, and what a call and decoding have to be counted for, is in families/*/estimate.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from ..runtime.memory import chunk_bytes_on, num_bytes
from ..video.geometry import Geometry
from .counting import Counts
from .speed import Work, probe, seconds, work_of

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """The clip to be made; height and width in pixels."""

    frames: int
    height: int
    width: int
    steps: int
    is_guided: bool = True
    decode_tile: int | None = None  # in latent cells; None decodes as usual

    @property
    def calls(self) -> int:
        """Calls of the large network."""
        return self.steps * (1 + self.is_guided)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Device and number format of the networks."""

    device: torch.device
    dtype: torch.dtype
    is_streamed: bool = False  # the large network's weights wait in host memory

    @property
    def chunk_bytes(self) -> int:
        """For the temporary tensors of one chunk."""
        return chunk_bytes_on(self.device)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Operations, time and memory of a clip."""

    work: Work  # all operations
    seconds: float  # at the speed of the device
    weights: int  # bytes on the device
    sampling: int  # bytes beside them at its peak
    decoding: int  # likewise
    hints: tuple[str, ...]  # what would lower which

    @property
    def peak(self) -> int:
        """Bytes on the device."""
        return self.weights + max(self.sampling, self.decoding)

    def __str__(self) -> str:
        lines = [
            f"operations  {self.work.flops / 1e12:.4g} TFLOP",
            f"time        about {of_time(self.seconds)}",
            f"memory      {gigabytes(self.peak)}: weights {gigabytes(self.weights)}, "
            f"sampling {gigabytes(self.sampling)} or decoding {gigabytes(self.decoding)}",
            *(f"{'lower' * (not index):<12}{hint}" for index, hint in enumerate(self.hints)),
        ]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """The estimates of a family."""

    call: Callable[..., Counts]  # of the large network: config, (frames, height, width), dtype, chunk_bytes=; cached
    usual: Callable[[Any], Clip]  # the clip that most people make with a network of this config
    geometry: Geometry


def on_meta(build: Callable[[], Network], dtype: torch.dtype) -> Network:
    """A network without memory, to be counted."""
    with torch.inference_mode(False), torch.device("meta"):
        return build().to(dtype)


def total(
    clip: Clip,
    place: Place,
    *,
    denoiser: nn.Module,
    blocks: Sequence[nn.Module],
    call: Counts,
    decoding: Iterable[tuple[Counts, int]],
    other_weights: int,
) -> Estimate:
    """Sum up a clip.

    Args:
        denoiser: the large network.
        blocks: its parts that are streamed one after the other.
        call: one call of it.
        decoding: calls of the decoder, and how often each is made.
        other_weights: bytes of the other networks on the device.
    """
    decoding = list(decoding)
    work = sum((work_of(counts) * times for counts, times in decoding), work_of(call) * clip.calls)
    whole, sizes = num_bytes(denoiser), list(map(num_bytes, blocks))
    streamed = whole - sum(sizes) + 2 * max(sizes)  # two blocks, and all that is in none
    return Estimate(
        work=work,
        seconds=seconds(work, probe(place.device, place.dtype)),
        weights=(streamed if place.is_streamed else whole) + other_weights,
        sampling=call.peak,
        decoding=max(counts.peak for counts, _ in decoding),
        hints=tuple(_hints(clip, place, whole - streamed)),
    )


def usual_line(estimates: Estimates, config: object, dtype: torch.dtype, device: torch.device, weights: float) -> str:
    """One line about a network with so many bytes of weights that was just loaded: what the usual clip takes here."""
    clip = estimates.usual(config)
    latent_shape = estimates.geometry.latent_shape(clip.frames, clip.height, clip.width)
    call = estimates.call(config, latent_shape, dtype, chunk_bytes=chunk_bytes_on(device))
    work = work_of(call) * clip.calls
    return (
        f"{clip.frames} frames of {clip.width}x{clip.height} in {clip.steps} steps take about "
        f"{of_time(seconds(work, probe(device, dtype)))} here ({work.flops / 1e15:.3g} PFLOP), {gigabytes(weights)} "
        f"for weights and {gigabytes(call.peak)} beside them"
    )


def _hints(clip: Clip, place: Place, saved: int) -> Iterator[str]:
    if not place.is_streamed and place.device.type != "cpu":
        yield f"memory by {gigabytes(saved)} of weights: --stream, in about the same time"
    if place.dtype is torch.float32 and place.device.type != "cpu":
        yield "memory and time by half or more: --dtype fp16 or bf16"
    if clip.is_guided:
        yield "time by half: a guidance scale of 1"
    yield "time, and memory beside the weights: fewer frames or a smaller picture; time alone: fewer steps"


def gigabytes(num_bytes: float) -> str:
    """A size for people; 1 GB is 1e9 bytes."""
    return f"{num_bytes / 1e9:.2g} GB" if num_bytes < 1e10 else f"{num_bytes / 1e9:.0f} GB"


def of_time(seconds: float) -> str:
    """A duration for people."""
    value, unit = next(
        ((seconds / n, unit) for unit, n in (("h", 3600), ("min", 60)) if seconds >= 2 * n), (seconds, "s")
    )
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.2g} {unit}"
