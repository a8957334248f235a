"""Resuming a pipeline's run: what must be equal, so that another process may resume from its file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..nn.fused import is_fused
from .fingerprint import environment, fingerprint, sampled
from .resume import Recording, SavedRun, Stateful

Resume = SavedRun | str | Path | None  # where the state of a run is saved


def begin(
    resume: Resume,
    network: nn.Module,
    start: Tensor,
    levels: Tensor,
    parts: Mapping[str, Stateful | None],
    settings: Mapping[str, object],
) -> Recording | None:
    """Start a run or resume it; None if its state is not saved.

    Args:
        resume: the file.
        network: the denoising network, before its weights move.
        start: latents at the first level.
        levels: noise levels, [steps + 1].
        parts: stateful parts of the run by name, such as a source of noise.
        settings: everything else that the result depends on.
    """
    if resume is None:
        return None
    run = resume if isinstance(resume, SavedRun) else SavedRun(resume)
    where = environment(start.device)
    what = fingerprint(network=_described(network), place=where, start=start, levels=levels, settings=settings)
    return run.begin(what, start, len(levels) - 1, parts)


def _described(network: nn.Module) -> dict[str, object]:
    """Everything that the network's results depend on; the device of its weights does not matter."""
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
