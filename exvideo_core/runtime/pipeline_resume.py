"""A pipeline's run in the file of a SavedRun: what of it must be equal, so that another process may go on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..nn.fused import is_fused
from .fingerprint import environment, fingerprint, sampled
from .resume import Recording, SavedRun, Stateful

Resume = SavedRun | str | Path | None  # where the state of a run is kept


def begin(
    resume: Resume,
    network: nn.Module,
    start: Tensor,
    levels: Tensor,
    parts: Mapping[str, Stateful | None],
    **told: object,
) -> Recording | None:
    """Begin a run, or go on with it; None where nothing is kept.

    Args:
        resume: the file.
        network: denoises; before its weights move.
        start: latents at the first level.
        parts: what the run remembers.
        told: all else that its result depends on.
    """
    if resume is None:
        return None
    run = resume if isinstance(resume, SavedRun) else SavedRun(resume)
    place = environment(start.device)
    what = fingerprint(network=_described(network), place=place, start=start, levels=levels, told=told)
    return run.begin(what, start, len(levels) - 1, parts)


def _described(network: nn.Module) -> dict[str, object]:
    """The network, and how it computes; where its weights are is not part of that."""
    weights = [*network.named_parameters(), *network.named_buffers()]
    attention = {getattr(module, "attention", None) for module in network.modules()} - {None}
    with torch.inference_mode():
        return {
            "class": type(network).__name__,
            "weights": sampled(weights),
            "formats": sorted({str(weight.dtype) for _, weight in weights}),
            "attention": list(attention),
            "is_fused": is_fused(),
            "chunk_bytes": getattr(network, "chunk_bytes", None),
        }
