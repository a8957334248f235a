"""A model family: everything that shared code needs to know of a model, as functions and data.

A family is a folder in `families/` whose `__init__` makes one `Family`, and a line in `registry.FAMILIES`. What is slow
to import is a function that imports inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .training.recipe import TrainingRecipe

from .hub.catalog import Group
from .lora.keys import LoRAKeys
from .sampling.methods import Method
from .video.geometry import Geometry
from .weights.kind import DetectRule


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model and its extension.

    Attributes:
        name: the key on the command line and in files, such as "svd".
        title: the name that people know, such as "Stable Video Diffusion".
        geometry: frame and size rules.
        detect: rules for its weight files, tried in this order.
        groups: its published files.
        methods: sampling methods by name; the first is the default.
        lora: how LoRA files name the model's layers; None if it takes no LoRAs.
        training: its recipe, imported when asked for: that needs pydantic.
    """

    name: str
    title: str
    geometry: Geometry
    detect: Sequence[DetectRule]
    methods: Mapping[str, Method]
    groups: Sequence[Group] = ()
    lora: LoRAKeys | None = None
    training: Callable[[], TrainingRecipe[Any]] | None = None
