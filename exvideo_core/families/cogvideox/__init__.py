"""CogVideoX-5B with ExVideo's LoRA (arXiv:2408.06072, arXiv:2406.14130)."""

from __future__ import annotations

from ...family import Family, lazy
from .detect import RULES
from .files import GROUPS
from .geometry import GEOMETRY
from .lora_keys import LORA_KEYS
from .methods import METHODS

COGVIDEOX = Family(
    name="cogvideox",
    methods=METHODS,
    lora=LORA_KEYS,
    geometry=GEOMETRY,
    detect=RULES,
    groups=GROUPS,
    estimates=lazy(__name__, "estimate", "ESTIMATES"),
    command=lazy(__name__, "command", "COMMAND"),
    inspection=lazy(__name__, "inspect", "INSPECTION"),
    training=lazy(__name__, "training", "RECIPE"),
)
