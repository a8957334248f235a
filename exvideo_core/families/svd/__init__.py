"""Stable Video Diffusion with ExVideo's extension (arXiv:2311.15127, arXiv:2406.14130)."""

from ...family import Family
from .detect import RULES
from .files import GROUPS
from .geometry import GEOMETRY
from .methods import METHODS

SVD = Family(
    name="svd",
    title="Stable Video Diffusion",
    methods=METHODS,
    geometry=GEOMETRY,
    detect=RULES,
    groups=GROUPS,
)
