"""Seconds of one forward pass computed in other ways: compiled chains, cuDNN's own trials, 8 bits, streamed weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import networks
from benchmarks.gpu.bench import Bench, relative_error
from benchmarks.gpu.calls import put
from benchmarks.gpu.networks import Call
from benchmarks.gpu.timing import once, timed
from exvideo_core.errors import ExVideoError
from exvideo_core.families.cogvideox.transformer import blocks_of
from exvideo_core.nn.fp8 import FP8
from exvideo_core.nn.fused import fusing
from exvideo_core.nn.kernels import kernel_mode
from exvideo_core.runtime.weight_streaming import WeightStream


def cudnn_benchmark(bench: Bench) -> None:
    """SVD with cuDNN's convolutions chosen by trying them."""
    unet = bench.network(networks.svd_unet)
    call = networks.svd_call(bench, unet)
    reference = call()
    with trying_convolutions():
        first = once(bench, call)
        put(bench, "cudnn.benchmark", timed(bench, call, repeats=2, warm_ups=0), reference, first_seconds=first)


@contextmanager
def trying_convolutions() -> Iterator[None]:
    """Let cuDNN try its convolutions at the first call of each shape within a block."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def svd_fused(bench: Bench) -> None:
    """SVD with chains compiled by torch.compile in place of the kernels, and beside them."""
    unet = bench.network(networks.svd_unet)
    call = networks.svd_call(bench, unet)
    reference = call()
    with kernel_mode("off"):
        _fused(bench, "compiled chains, without kernels", call, reference)
    _fused(bench, "compiled chains and kernels", call, reference)


def cogvideox_fused(bench: Bench) -> None:
    """CogVideoX with chains compiled by torch.compile."""
    transformer = bench.network(networks.cogvideox)
    call = networks.cogvideox_call(bench, transformer)
    _fused(bench, "compiled chains and kernels", call, reference=call())


def _fused(bench: Bench, name: str, call: Call, reference: Tensor) -> None:
    with fusing():
        first = once(bench, call)  # compiles
        put(bench, name, timed(bench, call, repeats=2, warm_ups=0), reference, first_seconds=first)


def svd_fp8(bench: Bench) -> None:
    """SVD with weights in 8 bits."""
    _in_8_bits(bench, networks.svd_unet, networks.svd_call)


def cogvideox_fp8(bench: Bench) -> None:
    """CogVideoX with weights in 8 bits."""
    _in_8_bits(bench, networks.cogvideox, networks.cogvideox_call)


def _in_8_bits(bench: Bench, build: Callable[[Bench], Any], call_of: Callable[[Bench, Any], Call]) -> None:
    for name, round_weights in FP8.items():
        _rounded(bench, f"fp8 {name}", round_weights, bench.network(build), call_of)
        bench.drop()  # its weights are rounded


def _rounded(
    bench: Bench, name: str, round_weights: Callable[[Any], None], network: Any, call_of: Callable[[Bench, Any], Call]
) -> None:
    """The error is that of 8 bits on random weights: recorded, not checked."""
    call = call_of(bench, network)
    reference = call()
    try:
        round_weights(network)
    except ExVideoError as error:  # no products in 8 bits here
        bench.record.put(name, unsupported=str(error)[:200])
        return
    measured = timed(bench, call, repeats=1)
    bench.record.put(name, error=relative_error(measured.result, reference), **measured.numbers)


def streamed(bench: Bench) -> None:
    """CogVideoX with its weights streamed from main memory, against all of them on the GPU."""
    transformer = bench.network(networks.cogvideox)
    call = networks.cogvideox_call(bench, transformer)
    resident, reference = timed(bench, call, repeats=1)
    stream = WeightStream(blocks_of, is_locked=bench.on_gpu)
    packing = once(bench, lambda: stream.place(transformer, bench.device, bench.brain))
    bench.free()
    with stream.running(transformer, bench.device):
        measured = timed(bench, call, repeats=2, warm_ups=0)
    ratio = measured.numbers["seconds"] / resident["seconds"]
    bench.check("streamed", measured.result, reference, 0, pack_seconds=packing, ratio=ratio, **measured.numbers)
    bench.drop()  # its weights are in main memory
