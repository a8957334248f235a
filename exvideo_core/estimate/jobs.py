"""A whole clip, counted network by network on the meta device: a few seconds for the published sizes.

Shapes: T frames or latent frames, h and w latent cells of 8x8 pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from ..families.cogvideox import pipeline as cogvideox_pipeline
from ..families.cogvideox import vae as cogvideox_vae
from ..families.cogvideox.config import TransformerConfig
from ..families.cogvideox.config import VAEConfig as CogVideoXVAEConfig
from ..families.cogvideox.transformer import CogVideoXTransformer
from ..families.cogvideox.vae import SPATIAL_FACTOR, TEMPORAL_FACTOR, CogVideoXVAE
from ..families.svd import pipeline as svd_pipeline
from ..families.svd import vae as svd_vae
from ..families.svd.config import UNetConfig, VAEConfig
from ..families.svd.unet import SVDUNet
from ..families.svd.vae import VAE
from ..runtime.memory import num_bytes
from .counting import Counts, Elsewhere, count
from .speed import Work, probe, seconds, work_of

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What is to be made; height and width in pixels."""

    frames: int
    height: int
    width: int
    steps: int
    is_guided: bool = True
    decode_tile: int | None = None  # in latent cells, of CogVideoX

    @property
    def calls(self) -> int:
        """Of the large network."""
        return self.steps * (1 + self.is_guided)

    @property
    def latent_frames(self) -> int:
        """CogVideoX's."""
        return (self.frames - 1) // TEMPORAL_FACTOR + 1


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and how."""

    device: torch.device
    dtype: torch.dtype
    is_streamed: bool = False  # the large network's weights wait in main memory


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of a clip.

    Attributes:
        work: all of it.
        seconds: at the speed of the device.
        weights: bytes on the device.
        sampling, decoding: bytes beside them, at the peak of each.
        hints: what would lower which.
    """

    work: Work
    seconds: float
    weights: int
    sampling: int
    decoding: int
    hints: tuple[str, ...]

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


def estimate_svd(unet: UNetConfig, vae: VAEConfig, clip: Clip, place: Place, other_weights: int = 0) -> Estimate:
    """Of a clip by SVD, from its networks' sizes.

    Args:
        unet, vae: sizes.
        clip: what is to be made.
        place: where and how.
        other_weights: bytes of the image encoder, where that stays on the device.
    """
    denoiser = _on_meta(lambda: SVDUNet(unet), place.dtype)
    coder = _on_meta(lambda: VAE(vae), place.dtype)
    if place.is_streamed:
        denoiser.offload_skip = Elsewhere  # skips wait in main memory too
    h, w = clip.height // SPATIAL_FACTOR, clip.width // SPATIAL_FACTOR

    def call() -> None:
        x = torch.empty(clip.frames, unet.in_channels, h, w, dtype=place.dtype)
        denoiser(x, torch.empty(1), torch.empty(1, unet.context_dim), torch.empty(1, 3))

    def decode(t: int, h: int, w: int) -> Counts:
        z = torch.empty(t, vae.latent_channels, h, w, dtype=place.dtype, device="meta")
        return count(lambda: coder.decoder(z))

    windows = Counter(
        tuple(end - start for start, end in window) for window in svd_vae.decode_windows(clip.frames, h, w)
    )
    decoding = [(decode(*shape), times) for shape, times in windows.items()]
    blocks = svd_pipeline.blocks_of(denoiser)
    return _estimate(clip, place, denoiser, blocks, count(call), decoding, num_bytes(coder) + other_weights)


def estimate_cogvideox(
    transformer: TransformerConfig, vae: CogVideoXVAEConfig, clip: Clip, place: Place, words: int = 226
) -> Estimate:
    """Of a clip by CogVideoX; the text encoder visits the device before all else, and is not counted.

    Args:
        transformer, vae: sizes.
        clip: what is to be made.
        place: where and how.
        words: tokens of the text.
    """
    denoiser = _on_meta(lambda: CogVideoXTransformer(transformer), place.dtype)
    coder = _on_meta(lambda: CogVideoXVAE(vae), place.dtype)
    h, w = clip.height // SPATIAL_FACTOR, clip.width // SPATIAL_FACTOR

    def call() -> None:
        x = torch.empty(1, transformer.in_channels, clip.latent_frames, h, w, dtype=place.dtype)
        denoiser(x, torch.empty(1), torch.empty(1, words, transformer.text_dim, dtype=place.dtype))

    def decode(h: int, w: int) -> Iterator[tuple[Counts, int]]:
        past: dict[Any, Any] = {}  # what comes first has none, and all after it are alike
        lengths = [end - start for start, end in cogvideox_vae.decode_chunks(clip.latent_frames)]
        for length, times in ((lengths[0], 1), (lengths[-1], len(lengths) - 1))[: len(lengths)]:
            z = torch.empty(1, vae.latent_channels, length, h, w, dtype=place.dtype, device="meta")
            yield count(partial(coder.decoder, z, past)), times

    tiles = cogvideox_vae.decode_windows(h, w, clip.decode_tile)
    windows = Counter((h1 - h0, w1 - w0) for (h0, h1), (w0, w1) in tiles)
    decoding = [(counts, times * number) for shape, number in windows.items() for counts, times in decode(*shape)]
    blocks = cogvideox_pipeline.blocks_of(denoiser)
    return _estimate(clip, place, denoiser, blocks, count(call), decoding, num_bytes(coder))


def _on_meta(build: Callable[[], _Module], dtype: torch.dtype) -> _Module:
    with torch.device("meta"):
        return build().to(dtype)


def _estimate(
    clip: Clip,
    place: Place,
    denoiser: nn.Module,
    blocks: Sequence[nn.Module],
    call: Counts,
    decoding: Sequence[tuple[Counts, int]],
    other_weights: int,
) -> Estimate:
    work = sum((work_of(counts) * times for counts, times in decoding), work_of(call) * clip.calls)
    whole, streamed = num_bytes(denoiser), _streamed(denoiser, blocks)
    return Estimate(
        work=work,
        seconds=seconds(work, probe(place.device, place.dtype)),
        weights=(streamed if place.is_streamed else whole) + other_weights,
        sampling=call.peak,
        decoding=max(counts.peak for counts, _ in decoding),
        hints=tuple(_hints(clip, place, whole - streamed)),
    )


def _streamed(denoiser: nn.Module, blocks: Sequence[nn.Module]) -> int:
    """Bytes on the device of a network that comes block by block: two of them, and all that is in none."""
    sizes = list(map(num_bytes, blocks))
    return num_bytes(denoiser) - sum(sizes) + 2 * max(sizes)


def _hints(clip: Clip, place: Place, saved: int) -> Iterator[str]:
    if not place.is_streamed and place.device.type != "cpu":
        yield f"memory by {gigabytes(saved)} of weights: --stream, in about the same time"
    if place.dtype is torch.float32 and place.device.type != "cpu":
        yield "memory and time by half or more: --dtype fp16 or bf16"
    if clip.is_guided:
        yield "time by half: a guidance scale of 1"
    yield "time, and memory beside the weights: fewer frames or a smaller picture; time alone: fewer steps"


def gigabytes(num_bytes: float) -> str:
    """For people; 1 GB is 1e9 bytes."""
    return f"{num_bytes / 1e9:.2g} GB" if num_bytes < 1e10 else f"{num_bytes / 1e9:.0f} GB"


def of_time(seconds: float) -> str:
    """For people."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} s"
