"""Random numbers that depend on a seed and a position alone: resuming or another number of GPUs changes none."""

from __future__ import annotations

from functools import lru_cache

import torch


def generator_of(seed: int, position: int) -> torch.Generator:
    """Generator for one position of a run, such as a step or a clip; on the CPU."""
    return torch.Generator().manual_seed(seed * 1_000_003 + position)


@lru_cache(maxsize=4)
def shuffled(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    """Permutation of the numbers below `count`, another one for each epoch."""
    # beyond the positions of any run
    return tuple(torch.randperm(count, generator=generator_of(seed, 2**40 + epoch)).tolist())


def uniform(generator: torch.Generator) -> float:
    """A number from 0 to 1, evenly drawn."""
    return float(torch.rand((), generator=generator))
