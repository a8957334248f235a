"""Seconds of one forward pass: by chunk size, with and without kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from benchmarks.gpu import networks
from benchmarks.gpu.bench import Bench, chunks_of
from benchmarks.gpu.networks import Call
from benchmarks.gpu.timing import Timed, launch_seconds, timed
from exvideo_core.nn.attention import sdpa
from exvideo_core.nn.kernels import kernel_mode

_NARROW_CHUNKS = (2**16, 2**20)  # bytes
_LIMIT = 5e-2  # relative error by rounding in 16 bits, through a whole network


def svd_512(bench: Bench) -> None:
    """SVD, 128 frames of 512x512."""
    unet = bench.network(networks.svd_unet)
    sizes = bench.size((2**25, 2**26, 2**28, 2**30, 2**32, 2**34), _NARROW_CHUNKS)
    _measure(bench, unet, networks.svd_call(bench, unet), sizes, repeats=3)


def cogvideox_129f(bench: Bench) -> None:
    """CogVideoX, 129 frames of 720x480."""
    transformer = bench.network(networks.cogvideox)
    call = networks.cogvideox_call(bench, transformer)
    _measure(bench, transformer, call, bench.size((2**28, 2**30, 2**32, 2**34), _NARROW_CHUNKS), repeats=2)
    with networks.attention_of(transformer, sdpa):
        bench.record.put("attention in PyTorch's order", **timed(bench, call, repeats=1).numbers)


def svd_1024(bench: Bench) -> None:
    """SVD, 128 frames of 1024x1024."""
    unet = bench.network(networks.svd_unet)
    call = networks.svd_call(bench, unet, cells=128)
    for chunk_bytes in bench.size((2**28, 2**32, 2**35), _NARROW_CHUNKS):
        with chunks_of(chunk_bytes, unet):
            bench.record.put(in_chunks(chunk_bytes), **timed(bench, call, repeats=1).numbers)


def _measure(bench: Bench, network: Any, call: Call, sizes: Sequence[int], repeats: int) -> None:
    numbers, result = timed(bench, call, repeats)
    launching = launch_seconds(bench, call)
    bench.record.put("as loaded", chunk_mib=network.chunk_bytes >> 20, launch_seconds=launching, **numbers)
    with kernel_mode("off"):
        put(bench, "without kernels", timed(bench, call, repeats), result)
    for chunk_bytes in sizes:
        with chunks_of(chunk_bytes, network):
            put(bench, in_chunks(chunk_bytes), timed(bench, call, repeats=1), result)


def in_chunks(chunk_bytes: int) -> str:
    """A chunk size as part of a row's name."""
    return f"in chunks of {chunk_bytes / 2**20:g} MiB"


def put(bench: Bench, name: str, measured: Timed, reference: Tensor, **values: object) -> None:
    """Record a call's seconds, and that its result is the reference within rounding."""
    bench.check(name, measured.result, reference, _LIMIT, **measured.numbers, **values)
