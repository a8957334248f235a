"""Predict the time of a call on a GPU from its kernels, without one. Predicted is not measured.

    python benchmarks/predict.py                          every job, this core, DiffSynth-Studio 1.1.9 and diffusers
    python benchmarks/predict.py --job svd_512 --top 20   where the bytes go
    python benchmarks/predict.py --chunk-mib 1024         with other chunks than the card's own

A roofline: a kernel takes as long as its operations at the rate that such kernels reach, or its bytes at the bandwidth
that copies reach, whichever is longer, and 3 microseconds at least. Products and convolutions lose what the last wave
of tiles leaves idle. Right to about 20 % for a call, and to 12 % for a ratio of two engines on one card.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn

from benchmarks import tasks
from benchmarks.count import JOBS
from benchmarks.cuda_kernels import (
    ATTENTION,
    COMPUTE,
    CONVOLUTION,
    PRODUCT,
    SHORT_ATTENTION,
    TRITON_PRODUCT,
    Kernel,
    kernels_of,
)
from benchmarks.engines import ENGINES
from exvideo_core.nn.chunks import chunk_bytes_for
from exvideo_core.nn.kernels import kernel_mode

PREDICTED = ("svd_512", "svd_1024", "svd_base_25f", "svd_vae_512", "svd_vae_1024", "cog_129f", "cog_vae_decode")
_LAUNCH = 3e-6  # seconds; the shortest kernel
_TRITON_SHARE = 0.9  # of the rate of cuBLAS


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card's kernels reach, in 16 bits with sums in float32.

    Attributes:
        rates: operations a second, by kind.
        bandwidth: bytes a second that copies reach.
        processors: streaming multiprocessors.
        tile: rows and columns of a product that one of them computes at a time.
        memory: bytes in all.
    """

    rates: Mapping[str, float]
    bandwidth: float
    processors: int
    tile: tuple[int, int]
    memory: float


def _rates(product: float, convolution: float, attention: float, short: float) -> dict[str, float]:
    rates = {PRODUCT: product, CONVOLUTION: convolution, ATTENTION: attention, SHORT_ATTENTION: short}
    return rates | {TRITON_PRODUCT: _TRITON_SHARE * product}


# Shares of the datasheets' peaks that large kernels are known to reach.
CARDS = {
    "H200": Card(
        rates=_rates(0.82 * 790e12, 0.65 * 790e12, 400e12, 150e12),
        bandwidth=0.88 * 4.8e12,
        processors=132,
        tile=(128, 256),
        memory=141e9,
    ),
    "RTX 4090": Card(
        rates=_rates(0.92 * 165e12, 0.80 * 165e12, 150e12, 80e12),
        bandwidth=0.90 * 1.008e12,
        processors=128,
        tile=(128, 128),
        memory=24e9,
    ),
    "RTX 3060": Card(
        rates=_rates(0.90 * 25.5e12, 0.80 * 25.5e12, 22e12, 14e12),
        bandwidth=0.90 * 0.36e12,
        processors=28,
        tile=(128, 128),
        memory=12e9,
    ),
}


def seconds(kernels: Sequence[Kernel], card: Card) -> float:
    """Time of the kernels on a card, one after the other."""
    return sum(max(_busy(kernel, card), kernel.launches * _LAUNCH) for kernel in kernels)


def _busy(kernel: Kernel, card: Card) -> float:
    moving = kernel.num_bytes / card.bandwidth
    if kernel.kind not in card.rates:
        return moving
    used = _waves(kernel.product, card) if kernel.product else 1.0
    return max(moving, kernel.flops / (card.rates[kernel.kind] * used))


def _waves(product: tuple[int, int, int], card: Card) -> float:
    """Share of the processors that the tiles of a product keep busy."""
    rows, columns, _ = product
    waves = math.ceil(rows / card.tile[0]) * math.ceil(columns / card.tile[1]) / card.processors
    return waves / math.ceil(waves)


@cache
def kernels_of_job(job: str, engine: str, chunk_bytes: int) -> list[Kernel]:
    """Kernels of one call: float16, CogVideoX bfloat16.

    Args:
        job: of `count.JOBS`.
        engine: of `ENGINES`.
        chunk_bytes: of this core's networks.

    Raises:
        ModuleNotFoundError: the engine is not installed.
    """
    task, cfg = JOBS[job].task, JOBS[job].cfg
    of_engine = ENGINES[engine]()
    network, call = of_engine.network(task, cfg)
    dtype = torch.bfloat16 if task.startswith("cog") else torch.float16
    nn.Module.to(network, "meta", dtype)
    of_engine.prepare(network)
    if hasattr(network, "chunk_bytes"):
        network.chunk_bytes = chunk_bytes
    given = tasks.inputs(task, cfg, dtype, "meta")
    with kernel_mode("unchecked"):
        return kernels_of(lambda: call(given))


def summary(kernels: Sequence[Kernel], card: Card) -> dict[str, float]:
    """Operations, launches and bytes of a call, and its seconds on a card."""
    by_kind = [sum(each.num_bytes for each in kernels if (each.kind in COMPUTE) is inside) for inside in (True, False)]
    return {
        "TFLOP": sum(kernel.flops for kernel in kernels) / 1e12,
        "launches": sum(kernel.launches for kernel in kernels),
        "compute GB": by_kind[0] / 1e9,
        "other GB": by_kind[1] / 1e9,
        "seconds": seconds(kernels, card),
    }


def top(kernels: Sequence[Kernel], count: int) -> str:
    """A table of the functions that move the most bytes, without products, convolutions and attention."""
    num_bytes: Counter[tuple[str, str]] = Counter()
    launches: Counter[tuple[str, str]] = Counter()
    for kernel in kernels:
        if kernel.kind not in COMPUTE:
            num_bytes[kernel.kind, kernel.where] += kernel.num_bytes
            launches[kernel.kind, kernel.where] += kernel.launches
    return "\n".join(
        f"{size / 1e9:9.2f} GB {launches[key]:7}  {key[0]:18} {key[1]}" for key, size in num_bytes.most_common(count)
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Predict the jobs and print a line for each engine and card."""
    arguments = arguments_of(sys.argv[1:] if argv is None else argv)
    for job, engine in itertools.product(arguments.job or PREDICTED, arguments.engine or ENGINES):
        try:
            for name in arguments.card or CARDS:
                _print(job, engine, name, arguments)
        except (ModuleNotFoundError, NotImplementedError) as error:
            sys.stderr.write(f"{job}, {engine} is left out: {error}\n")
    return 0


def _print(job: str, engine: str, name: str, arguments: argparse.Namespace) -> None:
    card = CARDS[name]
    chunk_bytes = arguments.chunk_mib << 20 if arguments.chunk_mib else chunk_bytes_for(card.memory)
    kernels = kernels_of_job(job, engine, chunk_bytes)
    numbers = {key: float(f"{value:.4g}") for key, value in summary(kernels, card).items()}
    row = {"job": job, "engine": engine, "card": name, "chunk MiB": chunk_bytes >> 20, **numbers}
    print(json.dumps(row) if arguments.json else "  ".join(f"{key} {value}" for key, value in row.items()))
    if arguments.top:
        print(top(kernels, arguments.top))
    sys.stdout.flush()


def arguments_of(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=JOBS, action="append", help="only this one; repeatable")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="only this one; repeatable")
    parser.add_argument("--card", choices=CARDS, action="append", help="only this one; repeatable")
    parser.add_argument("--chunk-mib", type=int, help="chunks of this core's networks, MiB")
    parser.add_argument("--top", type=int, default=0, help="print so many functions that move the most bytes")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
