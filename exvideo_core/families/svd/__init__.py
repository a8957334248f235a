"""Stable Video Diffusion with ExVideo's extension (arXiv:2311.15127, arXiv:2406.14130)."""

from __future__ import annotations

from ...family import Family, lazy
from .detect import RULES
from .files import GROUPS
from .geometry import GEOMETRY
from .methods import METHODS

SVD = Family(
    name="svd",
    methods=METHODS,
    geometry=GEOMETRY,
    detect=RULES,
    groups=GROUPS,
    estimates=lazy(__name__, "estimate", "ESTIMATES"),
    command=lazy(__name__, "command", "COMMAND"),
    inspection=lazy(__name__, "inspect", "INSPECTION"),
    training=lazy(__name__, "training", "RECIPE"),
)
