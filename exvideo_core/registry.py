"""The model families there are. Shared code asks here and never imports a family."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import ExVideoError
from .families.cogvideox import COGVIDEOX
from .families.svd import SVD
from .family import Family
from .hub import catalog
from .lora import keys as lora_keys
from .weights import detect, safetensors_files

if TYPE_CHECKING:
    from .training.recipe import TrainingRecipe

# looked up at each use, never copied
FAMILIES: tuple[Family, ...] = (SVD, COGVIDEOX)


def connect() -> None:
    """Hand to shared code what it needs of the families and may not import."""
    detect.rules = lambda: [rule for family in FAMILIES for rule in family.detect]
    catalog.families_groups = lambda: [group for family in FAMILIES for group in family.groups]
    safetensors_files.hint = catalog.hint
    lora_keys.families = lambda: [each.lora for each in FAMILIES if each.lora]


def family(name: str) -> Family:
    """The family of that name; raises ExVideoError if there is none."""
    for each in FAMILIES:
        if each.name == name:
            return each
    raise ExVideoError(f"model {name!r} is unknown; choose one of {', '.join(each.name for each in FAMILIES)}.")


def training_recipes() -> dict[str, Callable[[], TrainingRecipe[Any]]]:
    """Recipes of the families that can be trained, by name; each is imported when it is called."""
    return {each.name: each.training for each in FAMILIES if each.training}
