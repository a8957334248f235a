"""A run that needs as little of the graphics card as it can: the same clip, more slowly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...exvideo_core.pieces import PIECE_BYTES

SMALL_PIECE_BYTES = PIECE_BYTES // 4
_NAME = "exvideo_low_memory"  # in `transformer_options`, of a clone or a run


def saving(model: ModelPatcher) -> ModelPatcher:
    """A clone whose runs compute in smaller pieces while weights and skips wait in main memory."""
    clone = model.clone()
    clone.model_options["transformer_options"][_NAME] = True
    clone.remove_wrappers_with_key(WrappersMP.PREPARE_SAMPLING, _NAME)
    clone.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, _NAME, _without_weights)
    return clone


def is_saving(options: Mapping[str, Any]) -> bool:
    """Whether this is such a run, by its `transformer_options`."""
    return bool(options.get(_NAME))


def piece_bytes(options: Mapping[str, Any]) -> int:
    """What the temporary tensors of a piece of work may take in this run."""
    return SMALL_PIECE_BYTES if is_saving(options) else PIECE_BYTES


def _without_weights(executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Around the loading of models: ComfyUI is asked for all memory, so it brings weights only as they are used."""
    kwargs["force_offload"] = True
    return executor(*args, **kwargs)
