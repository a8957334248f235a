"""Estimates for CogVideoX: its networks, counted on the meta device."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import torch
from torch import nn

from ...estimate.counting import Counts, count, repeated
from ...estimate.jobs import Clip, Estimate, Estimates, Place, on_meta, total
from ...nn.chunks import CHUNK_BYTES
from ...nn.tiling import tile_axes
from ...runtime.memory import num_bytes
from .causal_conv import Past
from .config import TransformerConfig, VAEConfig
from .geometry import GEOMETRY
from .text_encoder import MAX_TOKENS
from .transformer import CogVideoXTransformer, blocks_of
from .vae import LATENT_CHUNK, CogVideoXVAE, temporal_chunks


def estimate_cogvideox(
    transformer: TransformerConfig, vae: VAEConfig, clip: Clip, place: Place, text_tokens: int = MAX_TOKENS
) -> Estimate:
    """Estimate a clip from the networks' sizes.

    The text encoder is on the device before all else and alone, and is not counted.
    """
    latent_shape = GEOMETRY.latent_shape(clip.frames, clip.height, clip.width)
    coder = on_meta(lambda: CogVideoXVAE(vae), place.dtype)
    denoiser = on_meta(lambda: CogVideoXTransformer(transformer), place.dtype)
    return total(
        clip,
        place,
        denoiser=denoiser,
        blocks=blocks_of(denoiser),
        call=count_call(transformer, latent_shape, place.dtype, chunk_bytes=place.chunk_bytes, text_tokens=text_tokens),
        decoding=_decoding(coder, vae.latent_channels, latent_shape, clip.decode_tile, place),
        other_weights=num_bytes(coder),
    )


@functools.lru_cache(maxsize=64)
def count_call(
    config: TransformerConfig,
    latent_shape: tuple[int, int, int],
    dtype: torch.dtype,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    text_tokens: int = MAX_TOKENS,
    clips: int = 1,
) -> Counts:
    """One call of the transformer on a batch of clips of these latent frames, height and width.

    All layers are alike: two of them are counted, and the others are as the second.
    """

    def call(transformer: CogVideoXTransformer) -> None:
        x_BCTHW = torch.empty(clips, config.in_channels, *latent_shape, dtype=dtype)
        transformer(x_BCTHW, torch.empty(clips), torch.empty(clips, text_tokens, config.text_dim, dtype=dtype))

    def counted(layers: int) -> Counts:
        transformer = on_meta(lambda: CogVideoXTransformer(replace(config, layers=layers)), dtype)
        transformer.chunk_bytes = chunk_bytes
        return count(partial(call, transformer))

    counted(1)  # makes the tables of positions, which are kept and would be in the first count alone
    return repeated(counted(1), counted(2), config.layers)


@functools.lru_cache(maxsize=16)
def count_decoding(
    config: VAEConfig, size: tuple[int, int], dtype: torch.dtype, chunk_bytes: int = CHUNK_BYTES
) -> Counts:
    """Two chunks of the decoder, of this height and width in latent cells: the second keeps the past of the first."""
    coder = on_meta(lambda: CogVideoXVAE(config), dtype)
    return _count_chunks(
        coder.decoder, [(config.latent_channels, frames, *size) for frames in (3, 2)], dtype, chunk_bytes
    )


@functools.lru_cache(maxsize=16)
def count_encoding(
    config: VAEConfig, size: tuple[int, int], dtype: torch.dtype, chunk_bytes: int = CHUNK_BYTES
) -> Counts:
    """Two chunks of the encoder, of this height and width in pixels."""
    coder = on_meta(lambda: CogVideoXVAE(config), dtype)
    return _count_chunks(coder.encoder, [(3, frames, *size) for frames in (9, 8)], dtype, chunk_bytes)


def _count_chunks(coder: nn.Module, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, chunk_bytes: int) -> Counts:
    def call() -> None:
        past: Past = {}
        for shape in shapes:
            coder(torch.empty(1, *shape, dtype=dtype), past, chunk_bytes)

    return count(call)


def _decoding(
    coder: CogVideoXVAE, channels: int, latent_shape: tuple[int, int, int], tile: int | None, place: Place
) -> Iterator[tuple[Counts, int]]:
    frames, height, width = latent_shape
    lengths = [end - start for start, end in temporal_chunks(frames, LATENT_CHUNK)]
    windows = Counter(
        tuple(end - start for start, end in window) for window in product(*tile_axes(height, width, tile))
    )
    for cells, number in windows.items():
        past: Past = {}  # the first chunk has none, and all after it are alike
        for length, times in ((lengths[0], 1), (lengths[-1], len(lengths) - 1))[: len(lengths)]:
            z_BCTHW = torch.empty(1, channels, length, *cells, dtype=place.dtype, device="meta")
            yield count(partial(coder.decoder, z_BCTHW, past, place.chunk_bytes)), times * number


ESTIMATES = Estimates(
    call=count_call,
    usual=lambda _config: Clip(frames=129, height=480, width=720, steps=50),
    geometry=GEOMETRY,
)
