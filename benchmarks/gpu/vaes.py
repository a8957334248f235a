"""Decoding and encoding: a window by chunk size, and what is beside the network: blending, copies to main memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from benchmarks.gpu import networks
from benchmarks.gpu.bench import Bench, chunks_of
from benchmarks.gpu.calls import in_chunks, put
from benchmarks.gpu.timing import timed
from exvideo_core.families.svd.vae import FRAMES_AT_ONCE, VAE
from exvideo_core.nn.kernels import kernel_mode
from exvideo_core.nn.out_of_memory import Chunked

_FRAMES = 24  # of a decoded clip: five windows


def svd(bench: Bench) -> None:
    """Windows of 8 frames of 512x512 and 1024x1024, a whole clip, and frames encoded one by one."""
    vae = bench.network(networks.svd_vae)
    for cells in bench.size((64, 128), (8,)):
        window = bench.random(FRAMES_AT_ONCE, vae.config.latent_channels, cells, cells, dtype=bench.half)
        decode = partial(_decode_window, vae, window)
        _measure(bench, vae, f"a window of {8 * cells}x{8 * cells}", decode)
    cells = bench.size(64, 8)
    clip = bench.random(_FRAMES, vae.config.latent_channels, cells, cells, dtype=bench.half)
    bench.record.put(f"decode {_FRAMES} frames", **timed(bench, lambda: vae.decode(clip), repeats=1).numbers)
    pixels = bench.random(8, 3, 8 * cells, 8 * cells).clamp(-1, 1)
    bench.record.put("encode 8 frames", **timed(bench, lambda: vae.encode(pixels), repeats=1).numbers)


def _decode_window(vae: VAE, window: Tensor) -> Tensor:
    return vae.decoder(window, vae.chunk_bytes)


def cogvideox(bench: Bench) -> None:
    """17 frames of 720x480: two temporal chunks."""
    vae = bench.network(networks.cogvideox_vae)
    height, width = bench.size((60, 90), (4, 6))
    latents = bench.random(1, vae.config.latent_channels, 5, height, width, dtype=bench.brain)
    _measure(bench, vae, "17 frames", partial(vae.decode, latents))


def _measure(bench: Bench, vae: Chunked, name: str, decode: Callable[[], Tensor]) -> None:
    numbers, reference = timed(bench, decode, repeats=2)
    bench.record.put(f"{name}, as loaded", chunk_mib=vae.chunk_bytes >> 20, **numbers)
    with kernel_mode("off"):
        put(bench, f"{name}, without kernels", timed(bench, decode, repeats=2), reference)
    for chunk_bytes in bench.size((2**26, 2**28, 2**30, 2**33), (2**20, 2**24)):
        with chunks_of(chunk_bytes, vae):
            put(bench, f"{name}, {in_chunks(chunk_bytes)}", timed(bench, decode, repeats=1), reference)
