"""CogVideoX-5B with ExVideo's LoRA (arXiv:2408.06072, arXiv:2406.14130)."""

from ...family import Family
from .detect import RULES
from .files import GROUPS
from .geometry import GEOMETRY

COGVIDEOX = Family(
    name="cogvideox",
    title="CogVideoX",
    geometry=GEOMETRY,
    detect=RULES,
    groups=GROUPS,
)
