"""Stable Video Diffusion with ExVideo's extension (arXiv:2311.15127, arXiv:2406.14130)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...estimate import Estimates
from ...family import Command, Family, Inspection
from .detect import RULES
from .files import GROUPS
from .geometry import GEOMETRY
from .methods import METHODS

if TYPE_CHECKING:
    from ...training.recipe import TrainingRecipe


def _training() -> TrainingRecipe[Any]:
    from .training import RECIPE

    return RECIPE


def _estimates() -> Estimates:
    from .estimate import ESTIMATES

    return ESTIMATES


def _command() -> Command:
    from .command import COMMAND

    return COMMAND


def _inspection() -> Inspection:
    from .inspect import INSPECTION

    return INSPECTION


SVD = Family(
    name="svd",
    methods=METHODS,
    geometry=GEOMETRY,
    detect=RULES,
    groups=GROUPS,
    estimates=_estimates,
    command=_command,
    inspection=_inspection,
    training=_training,
)
