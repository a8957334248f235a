"""The interface between a family and shared training code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..runtime.distributed import World
from .settings import Training
from .target import Target

Config = TypeVar("Config", bound=Training)
OnPrepare = Callable[[str, int, int], None]  # what is being prepared, how much of how much


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Parameters of a network in training.

    Attributes:
        trained: by tensor.
        frozen: all others.
    """

    trained: Mapping[str, int]
    frozen: int


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe(Generic[Config]):
    """How a family is post-tuned.

    Attributes:
        config: class of its configurations.
        build: read the networks, encode clips that are not cached yet, and freeze what is not trained.
        count: parameters, from the headers of the files alone.
    """

    config: type[Config]
    build: Callable[[Config, World, OnPrepare | None], Target]
    count: Callable[[Config], Sizes]
