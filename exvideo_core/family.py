"""A model family: everything that shared code needs to know of a model, as functions and data.

A family is a folder in `families/` whose `__init__` makes one `Family`, and a line in `registry.FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .training.recipe import TrainingRecipe


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model and its extension.

    Attributes:
        name: the key on the command line and in files, such as "svd".
        title: the name that people know, such as "Stable Video Diffusion".
        training: its recipe, imported when asked for: that needs pydantic.
    """

    name: str
    title: str
    training: Callable[[], TrainingRecipe[Any]] | None = None
