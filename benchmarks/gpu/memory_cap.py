"""Out of memory, made to happen: the process may use less than a call takes, retries in smaller chunks, and agrees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.gpu import networks
from benchmarks.gpu.bench import Bench, chunks_of
from benchmarks.gpu.timing import timed
from exvideo_core.nn.out_of_memory import SMALLEST_CHUNK, restore_chunk_bytes, retry_with_smaller_chunks

_LARGE = 2**33  # bytes of a chunk
_SHARE = 0.4  # of the way from the least memory to the most


def retry(bench: Bench) -> None:
    """SVD's UNet between the memory that it takes in the smallest chunks and in large ones."""
    unet = bench.network(networks.svd_unet)
    call = networks.svd_call(bench, unet)
    with chunks_of(SMALLEST_CHUNK, unet):
        least, reference = timed(bench, call, repeats=1)
    with chunks_of(_LARGE, unet):
        most, _ = timed(bench, call, repeats=1)
    room = least["peak_gb"] + _SHARE * (most["peak_gb"] - least["peak_gb"])
    bench.free()
    with restore_chunk_bytes(unet), _capped(torch.cuda.memory_allocated() + room * 1e9):
        unet.chunk_bytes = _LARGE
        result = retry_with_smaller_chunks(unet, call)
        chunk_bytes = unet.chunk_bytes
    numbers = {"cap_gb": room, "least_gb": least["peak_gb"], "most_gb": most["peak_gb"]}
    bench.check("retried", result, reference, 5e-2, chunk_mib=chunk_bytes >> 20, **numbers)
    bench.check_that("was out of memory", chunk_bytes < _LARGE)


@contextmanager
def _capped(num_bytes: float) -> Iterator[None]:
    """Let this process allocate only so many bytes on the GPU within a block."""
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, num_bytes / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
