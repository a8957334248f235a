"""A model family: everything that shared code needs to know of a model, as functions and data.

A family is a folder in `families/` whose `__init__` makes one `Family`, and a line in `registry.FAMILIES`. What is slow
to import is a function that imports inside.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .training.recipe import TrainingRecipe

from .estimate import Estimate, Estimates
from .hub.catalog import Group
from .lora.keys import LoRAKeys
from .sampling.methods import Method
from .video.geometry import Geometry
from .weights.kind import DetectRule, Kind
from .weights.safetensors_files import WeightFile


@dataclass(frozen=True, kw_only=True)
class Demo:
    """`exvideo demo --model NAME`: options, and what makes a clip with the embedded model."""

    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


@dataclass(frozen=True, kw_only=True)
class Command:
    """`exvideo generate NAME`."""

    help: str  # a line in the list of models
    add_options: Callable[[argparse.ArgumentParser], None]  # all but --estimate
    run: Callable[[argparse.Namespace], None]  # makes the clip
    estimate: Callable[[argparse.Namespace], Estimate]  # says what it would take
    demo: Demo | None = None  # None where there is no embedded model


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """`exvideo inspect`, for files of the family."""

    folders: tuple[str, ...]  # the networks' in diffusers' layout; the first tells whose layout a folder has
    whole: Kind | None = None  # what such a folder is loaded as; None where its networks are loaded one by one
    # Tries to load an opened file, or a folder of the kind `whole`, and says "yes" and for what. Raises CheckpointError
    # if it does not load; None if the kind is another family's or not loaded by itself.
    load: Callable[[Path | WeightFile, Kind], str | None]
    facts: Callable[[WeightFile], Mapping[str, str]] = lambda _file: {}  # rows beside those that every file has


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model and its extension."""

    name: str  # on the command line and in files, such as "svd"
    geometry: Geometry  # frame and size rules
    detect: Sequence[DetectRule]  # rules for its weight files, tried in this order
    methods: Mapping[str, Method]  # sampling methods by name; the first is the default
    groups: Sequence[Group] = ()  # its published files
    lora: LoRAKeys | None = None  # how LoRA files name the model's layers; None if it takes no LoRAs
    # functions, because these are slow to import, and training needs pydantic
    estimates: Callable[[], Estimates]
    command: Callable[[], Command]
    inspection: Callable[[], Inspection]
    training: Callable[[], TrainingRecipe[Any]] | None = None  # None: it cannot be trained


def lazy(package: str, module: str, name: str) -> Callable[[], Any]:
    """A function that imports a name of a package's module when it is called."""
    return lambda: getattr(import_module(f".{module}", package), name)
