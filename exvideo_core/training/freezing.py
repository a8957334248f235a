"""Freezing all but the trained modules of a network, their dtypes, and gradient checkpointing."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

HELD_OUT_SEED = 7919  # of the noise on held-out clips, which is never trained on
SAMPLING_STEPS = 25  # of validation videos


def freeze(network: nn.Module, units: Iterable[nn.Module], dtype: torch.dtype, device: torch.device) -> None:
    """Move a network to the device, frozen and in `dtype`, except for the units, which are trained in float32.

    With another `dtype` this is mixed precision: the units compute in it (by autocast), while their weights, gradients
    and optimizer state stay in float32.
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
    """Gradient checkpointing: keep only the blocks' inputs, and recompute each block in the backward pass."""
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
