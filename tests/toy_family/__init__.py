"""A third model, whole: a pixel-space network of two layers. It shows that a model is a folder and a line.

The tests add it with `monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, TOY))`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exvideo_core.estimate import Estimates
from exvideo_core.family import Command, Family, Inspection

from .network import GEOMETRY, LORA_KEYS, METHODS, RULES

if TYPE_CHECKING:
    from exvideo_core.training.recipe import TrainingRecipe


def _estimates() -> Estimates:
    from .pipeline import ESTIMATES

    return ESTIMATES


def _command() -> Command:
    from .pipeline import COMMAND

    return COMMAND


def _inspection() -> Inspection:
    from .pipeline import INSPECTION

    return INSPECTION


def _training() -> TrainingRecipe[Any]:
    from .training import RECIPE

    return RECIPE


TOY = Family(
    name="toy",
    geometry=GEOMETRY,
    detect=RULES,
    methods=METHODS,
    lora=LORA_KEYS,
    estimates=_estimates,
    command=_command,
    inspection=_inspection,
    training=_training,
)
