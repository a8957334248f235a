"""Random numbers that are functions of a seed and a place alone: interruptions, GPUs and ranks do not change them."""

from __future__ import annotations

from functools import lru_cache

import torch


def generator_of(seed: int, position: int) -> torch.Generator:
    """Random numbers of one place of a run, such as a step or a clip; on the CPU."""
    return torch.Generator().manual_seed(seed * 1_000_003 + position)


@lru_cache(maxsize=4)
def shuffled(count: int, seed: int, around: int) -> tuple[int, ...]:
    """All numbers below `count`, in an order of their own each time around."""
    # behind the places of any run
    return tuple(torch.randperm(count, generator=generator_of(seed, 2**40 + around)).tolist())


def chance(share: float, generator: torch.Generator) -> bool:
    """True for about this share of the calls; draws in any case."""
    return float(torch.rand((), generator=generator)) < share


def window(length: int, size: int, generator: torch.Generator) -> range:
    """So many neighbouring numbers out of `length`."""
    start = int(torch.randint(0, length - size + 1, (), generator=generator))
    return range(start, start + size)
