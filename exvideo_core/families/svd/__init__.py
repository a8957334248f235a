"""Stable Video Diffusion with ExVideo's extension (arXiv:2311.15127, arXiv:2406.14130)."""

from ...estimate import Estimates
from ...family import Command, Family, Inspection
from .detect import RULES
from .files import GROUPS
from .geometry import GEOMETRY
from .methods import METHODS


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
    title="Stable Video Diffusion",
    methods=METHODS,
    geometry=GEOMETRY,
    detect=RULES,
    groups=GROUPS,
    estimates=_estimates,
    command=_command,
    inspection=_inspection,
)
