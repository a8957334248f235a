"""CogVideoX-5B with ExVideo's LoRA (arXiv:2408.06072, arXiv:2406.14130)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...family import Family

if TYPE_CHECKING:
    from ...training.recipe import TrainingRecipe


def _training() -> TrainingRecipe[Any]:
    from .training import RECIPE

    return RECIPE


COGVIDEOX = Family(
    name="cogvideox",
    title="CogVideoX",
    training=_training,
)
