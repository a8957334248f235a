"""What differs between the ComfyUI versions this pack runs on; the oldest and the newest are tested."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

# Weights narrower than this are for storage only: sums, norms and positions need more.
_NARROW = 1  # bytes


def layers(operations: Any, dtype: torch.dtype, compute_dtype: torch.dtype, device: Any) -> SimpleNamespace:
    """ComfyUI's layer classes as the core's `Ops`, with type and device filled in, and `effective_weights`.

    Args:
        operations: `comfy.ops.disable_weight_init` or one of its children.
        dtype: of weights; with 8-bit weights, norms and tables are kept in `compute_dtype`.
        compute_dtype: of the activations.
        device: where the layers are made.
    """
    from .live_layers import live

    fine = compute_dtype if dtype.itemsize == _NARROW else dtype
    types = {"Linear": dtype, "Conv2d": dtype, "Conv3d": dtype, "GroupNorm": fine, "LayerNorm": fine, "Embedding": fine}
    return SimpleNamespace(
        **{name: partial(live(operations, name), dtype=kind, device=device) for name, kind in types.items()}
    )


def clip_vision_model(config: Mapping[str, Any]) -> Any:
    """ComfyUI's CLIP_VISION object of these sizes; versions before 0.30 take a file only."""
    from comfy.clip_vision import ClipVisionModel

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip_vision.json"
        file.write_text(json.dumps(dict(config)), encoding="utf-8")
        return ClipVisionModel(str(file))


def intermediate_dtype() -> torch.dtype:
    """Type of images and latents between nodes; float32 before it became an option."""
    from comfy import model_management

    choose = getattr(model_management, "intermediate_dtype", None)
    dtype: torch.dtype = choose() if choose else torch.float32
    return dtype


@contextmanager
def without_warning(start: str) -> Iterator[None]:
    """Keep one of ComfyUI's warnings, known by its first words, out of the log."""

    def differs(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(start)

    logger = logging.getLogger()
    logger.addFilter(differs)
    try:
        yield
    finally:
        logger.removeFilter(differs)
