"""What the presets of ExVideo Sampler set. A preset wins over the widgets it sets, and the node says so."""

from __future__ import annotations

from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher

from ...exvideo_core.nn.step_cache import Reuse
from . import low_memory, step_reuse

AS_SET = "as set"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What is set; None leaves a widget as it is.

    Attributes:
        steps, method: the widgets.
        reuse: step reuse for a MODEL that does not bring its own from ExVideo Speed, which somebody chose with care.
        is_exact: takes step reuse away.
        is_saving: computes in smaller pieces, and lets weights and skips wait in main memory.
    """

    steps: int | None = None
    method: str | None = None
    reuse: Reuse | None = None
    is_exact: bool = False
    is_saving: bool = False


# Saved in people's workflows, so the spelling stays. Times and differences: docs/approximations.md.
PRESETS = {
    AS_SET: Preset(),
    "quality": Preset(steps=50, method="auto", is_exact=True),
    "fast": Preset(steps=25, reuse=Reuse(threshold=0.08)),
    "low memory": Preset(is_saving=True),
}


def prepared(model: ModelPatcher, preset: Preset) -> ModelPatcher:
    """The MODEL, or a clone that computes as the preset says."""
    if preset.is_exact:
        model = step_reuse.without_step_reuse(model)
    if preset.reuse and step_reuse.settings_of(model) is None:
        model = step_reuse.with_step_reuse(model, preset.reuse)
    return low_memory.saving(model) if preset.is_saving else model


def described(name: str, preset: Preset, model: ModelPatcher) -> str:
    """In words what a preset does with this MODEL; nothing where it sets nothing."""
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
        parts.append("small pieces; weights wait in main memory")
    return f"preset {name}: {', '.join(parts)}"
