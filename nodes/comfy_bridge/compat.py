"""Differences between the supported ComfyUI versions; the oldest and the newest are tested."""

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

# 8-bit weights are for storage only: norms and position tables need more bits.
_NARROW = 1  # bytes


def layers(operations: Any, dtype: torch.dtype, compute_dtype: torch.dtype, device: Any) -> SimpleNamespace:
    """ComfyUI's layer classes as the core's `Ops`, with dtype and device filled in, and `effective_weights`.

    Args:
        operations: `comfy.ops.disable_weight_init` or one of its subclasses.
        dtype: of the weights; with 8-bit weights, norms and tables are kept in `compute_dtype`.
        compute_dtype: of the activations.
        device: of the new layers.
    """
    from .effective_layers import with_effective_weights

    fine = compute_dtype if dtype.itemsize == _NARROW else dtype
    types = {"Linear": dtype, "Conv2d": dtype, "Conv3d": dtype, "GroupNorm": fine, "LayerNorm": fine, "Embedding": fine}
    classes = {name: with_effective_weights(operations, name) for name in types}
    return SimpleNamespace(
        **{name: partial(layer, dtype=types[name], device=device) for name, layer in classes.items()}
    )


def clip_vision_model(config: Mapping[str, Any]) -> Any:
    """ComfyUI's CLIP_VISION object with this config; versions before 0.30 take only a file."""
    from comfy.clip_vision import ClipVisionModel

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip_vision.json"
        file.write_text(json.dumps(dict(config)), encoding="utf-8")
        return ClipVisionModel(str(file))


def intermediate_dtype() -> torch.dtype:
    """Dtype of images and latents between nodes; older versions have no option, and use float32."""
    from comfy import model_management

    choose = getattr(model_management, "intermediate_dtype", None)
    dtype: torch.dtype = choose() if choose else torch.float32
    return dtype


@contextmanager
def without_warning(start: str) -> Iterator[None]:
    """Keep a warning of ComfyUI's out of the log, by its first words."""

    def differs(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(start)

    logger = logging.getLogger()
    logger.addFilter(differs)
    try:
        yield
    finally:
        logger.removeFilter(differs)
