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
    """`exvideo generate NAME`.

    Attributes:
        help: a line in the list of models.
        add_options: adds the model's options, but for --estimate.
        run: makes the clip.
        estimate: says what it would take.
        demo: makes a clip with an embedded model; None where there is none.
    """

    help: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
    estimate: Callable[[argparse.Namespace], Estimate]
    demo: Demo | None = None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """`exvideo inspect`, for files of the family.

    Attributes:
        folders: the networks' folders in diffusers' layout; the first tells whose layout a folder has.
        whole: the kind that such a folder is loaded as; None where its networks are loaded one by one.
        load: tries to load an opened file, or a folder of the kind `whole`, and says "yes" and for what. Raises
            CheckpointError if it does not load; None if the kind is another family's or not loaded by itself.
        facts: rows about a file, beside those that every file has.
    """

    folders: tuple[str, ...]
    whole: Kind | None = None
    load: Callable[[Path | WeightFile, Kind], str | None]
    facts: Callable[[WeightFile], Mapping[str, str]] = lambda _file: {}


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
        estimates, command, inspection, training: see there; functions, because they are slow to import, and training
            needs pydantic. None: it cannot be trained.
    """

    name: str
    title: str
    geometry: Geometry
    detect: Sequence[DetectRule]
    methods: Mapping[str, Method]
    groups: Sequence[Group] = ()
    lora: LoRAKeys | None = None
    estimates: Callable[[], Estimates]
    command: Callable[[], Command]
    inspection: Callable[[], Inspection]
    training: Callable[[], TrainingRecipe[Any]] | None = None


def lazy(package: str, module: str, name: str) -> Callable[[], Any]:
    """A function that imports a name of a package's module when it is called."""
    return lambda: getattr(import_module(f".{module}", package), name)
