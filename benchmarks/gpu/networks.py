"""The networks at their published sizes with random weights, as their pipelines have them, and a call of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import tasks
from benchmarks.gpu.bench import Bench
from exvideo_core.families.cogvideox import config as cog
from exvideo_core.families.cogvideox.transformer import CogVideoXTransformer
from exvideo_core.families.cogvideox.vae import CogVideoXVAE
from exvideo_core.families.svd.config import UNetConfig, VAEConfig
from exvideo_core.families.svd.unet import SVDUNet
from exvideo_core.families.svd.vae import VAE
from exvideo_core.nn.attention import Attention, auto
from exvideo_core.nn.convolution import lay_out_weights
from exvideo_core.runtime.memory import chunk_bytes_on

Call = Callable[[], Tensor]

EXTENSION_FRAMES = 128
_NARROW = (32, 32, 32, 32)  # widths


def svd_unet(bench: Bench) -> SVDUNet:
    """SVD's UNet with ExVideo's extension."""
    config = UNetConfig(extension_frames=EXTENSION_FRAMES)
    if bench.is_narrow:
        config = UNetConfig(extension_frames=EXTENSION_FRAMES, widths=_NARROW, time_dim=32)
    unet = _random(bench, lambda: SVDUNet(config, attention=auto), bench.half)
    lay_out_weights(unet)
    return unet


def svd_vae(bench: Bench) -> VAE:
    """SVD's autoencoder."""
    config = bench.size(VAEConfig(), VAEConfig(widths=_NARROW))
    vae = _random(bench, lambda: VAE(config), bench.half)
    lay_out_weights(vae)
    return vae


def cogvideox(bench: Bench) -> CogVideoXTransformer:
    """CogVideoX-5B's transformer."""
    narrow = cog.TransformerConfig(width=128, hidden=256, layers=3, time_dim=32)
    config = bench.size(cog.TransformerConfig(), narrow)
    return _random(bench, lambda: CogVideoXTransformer(config, attention=auto), bench.brain)


def cogvideox_vae(bench: Bench) -> CogVideoXVAE:
    """CogVideoX's autoencoder."""
    config = bench.size(cog.VAEConfig(), cog.VAEConfig(widths=_NARROW))
    return _random(bench, lambda: CogVideoXVAE(config), bench.brain)


def _random(bench: Bench, build: Callable[[], Any], dtype: torch.dtype) -> Any:
    """A network with random weights and the chunk size of the card."""
    network = tasks.random_network(build, dtype, str(bench.device))
    network.chunk_bytes = chunk_bytes_on(bench.device)
    return network


# a call of each


def svd_call(bench: Bench, unet: SVDUNet, cells: int = 64) -> Call:
    """One forward pass over 128 frames of cells x cells: 512x512 pixels by default."""
    frames, side = bench.size((EXTENSION_FRAMES, cells), (6, 16))
    x_TCHW = bench.random(frames, unet.config.in_channels, side, side, dtype=bench.half)
    context = bench.random(1, unet.config.context_dim, dtype=bench.half)
    ids = torch.tensor([[29.0, 127.0, 0.02]], device=bench.device)  # fps - 1, motion bucket, noise augmentation
    timestep = torch.tensor(0.7, device=bench.device)
    return lambda: unet(x_TCHW, timestep, context, ids)


def cogvideox_call(bench: Bench, transformer: CogVideoXTransformer) -> Call:
    """One forward pass over 129 frames of 720x480 pixels."""
    frames, height, width = bench.size((33, 60, 90), (3, 8, 12))
    x_BCTHW = bench.random(1, transformer.config.in_channels, frames, height, width, dtype=bench.brain)
    context = bench.random(1, 226, transformer.config.text_dim, dtype=bench.brain)
    return lambda: transformer(x_BCTHW, 500, context)


@contextmanager
def attention_of(network: nn.Module, attention: Attention) -> Iterator[None]:
    """Let all blocks of a network use another attention within a block."""
    blocks: list[Any] = [module for module in network.modules() if "attention" in vars(module)]
    before = [block.attention for block in blocks]
    for block in blocks:
        block.attention = attention
    try:
        yield
    finally:
        for block, given in zip(blocks, before, strict=True):
            block.attention = given
