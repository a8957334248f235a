"""The model families there are. Shared code asks here and never imports a family."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import ExVideoError
from .families.cogvideox import COGVIDEOX
from .families.svd import SVD
from .family import Family

if TYPE_CHECKING:
    from .training.recipe import TrainingRecipe

FAMILIES: tuple[Family, ...] = (COGVIDEOX, SVD)


def family(name: str) -> Family:
    """The family of that name.

    Raises:
        ExVideoError: there is none.
    """
    for each in FAMILIES:
        if each.name == name:
            return each
    raise ExVideoError(f"model {name!r} is unknown; choose one of {', '.join(each.name for each in FAMILIES)}.")


def training_recipes() -> dict[str, Callable[[], TrainingRecipe[Any]]]:
    """Recipes of the families that can be trained, by name; each is imported when it is called."""
    return {each.name: each.training for each in FAMILIES if each.training}
