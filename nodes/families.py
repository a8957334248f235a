"""The families' adapters. Shared nodes ask here and never import a family."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher

from ..exvideo_core.errors import ExVideoError
from .cogvideox.adapter import COGVIDEOX
from .comfy_bridge.adapter import Adapter
from .svd.adapter import SVD

ADAPTERS: tuple[Adapter, ...] = (COGVIDEOX, SVD)


def adapter_of(model: ModelPatcher) -> Adapter:
    """The adapter of the family that a MODEL belongs to.

    Raises:
        ExVideoError: it belongs to none.
    """
    for adapter in ADAPTERS:
        if isinstance(model.model, adapter.models):
            return adapter
    raise ExVideoError(
        f"this model is {type(model.model).__name__}, which ExVideo Sampler does not know. Load one with "
        f"{' or '.join(adapter.loader for adapter in ADAPTERS)}, or use KSampler."
    )


def methods() -> list[str]:
    """Sampling methods of all families, by the names that workflows save."""
    return list(dict.fromkeys(name for adapter in ADAPTERS for name in adapter.methods))
