"""Presets of ExVideo Sampler. A preset overrides the widgets that it sets, and the node says so."""

from __future__ import annotations

from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher

from ...exvideo_core.nn.step_cache import Reuse
from . import low_memory, step_reuse

AS_SET = "as set"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Values of a preset; None leaves a widget as it is.

    Attributes:
        steps, method: the widgets.
        reuse: step reuse for a MODEL without ExVideo Speed, whose settings win.
        is_exact: turns step reuse off.
        is_saving: smaller chunks, and weights and skips offloaded to main memory.
    """

    steps: int | None = None
    method: str | None = None
    reuse: Reuse | None = None
    is_exact: bool = False
    is_saving: bool = False


# Saved in workflows, so the names stay. Times and differences: docs/approximations.md.
PRESETS = {
    AS_SET: Preset(),
    "quality": Preset(steps=50, method="auto", is_exact=True),
    "fast": Preset(steps=25, reuse=Reuse(threshold=0.08)),
    "low memory": Preset(is_saving=True),
}


def prepared(model: ModelPatcher, preset: Preset) -> ModelPatcher:
    """The MODEL with a preset applied: itself or a clone."""
    if preset.is_exact:
        model = step_reuse.without_step_reuse(model)
    if preset.reuse and step_reuse.settings_of(model) is None:
        model = step_reuse.with_step_reuse(model, preset.reuse)
    return low_memory.saving(model) if preset.is_saving else model


def summary(name: str, preset: Preset, model: ModelPatcher) -> str:
    """The effect of a preset on this MODEL in words; empty if it sets nothing."""
    if preset == Preset():
        return ""
    own = step_reuse.settings_of(model)
    parts = []
    if preset.steps is not None:
        parts.append(f"{preset.steps} steps")
    if preset.is_exact:
        parts.append("every step computed" + (", ExVideo Speed is off" if own else ""))
    if preset.reuse:
        kept = own or preset.reuse
        parts.append(f"step reuse {kept.threshold:g}" + (" as ExVideo Speed has it" if own else ""))
    if preset.is_saving:
        parts.append("small chunks, weights offloaded to main memory")
    return f"preset {name}: {', '.join(parts)}"
