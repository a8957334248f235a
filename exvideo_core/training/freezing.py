"""What is frozen and what is trained of a network, in which number format, and what is computed twice."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

HELD_OUT_SEED = 7919  # of the noise on held-out clips, which is never trained on
SAMPLING_STEPS = 25  # of validation videos


def freeze(network: nn.Module, units: Iterable[nn.Module], dtype: torch.dtype, device: torch.device) -> None:
    """Have a network on the device, frozen and in `dtype`, but for the units: those are float32, and train.

    Where `dtype` is another, the units compute in it (by autocast), as in mixed precision everywhere; only their
    weights, gradients and optimizer are in full precision.
    """
    units = list(units)
    trained = [p for unit in units for p in unit.parameters()]
    originals = [p.data for p in trained]
    network.requires_grad_(False)
    network.to(device, dtype)
    with torch.no_grad():
        for p, original in zip(trained, originals, strict=True):
            p.data = original.to(device, torch.float32, copy=True)
            p.requires_grad_(True)
    if dtype != torch.float32:
        for unit in units:
            unit.forward = torch.autocast(device.type, dtype)(unit.forward)


def checkpoint_blocks(blocks: Iterable[nn.Module]) -> None:
    """Keep only the blocks' inputs for the backward pass, and compute each block again in it."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
