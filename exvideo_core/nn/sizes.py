"""Sizes of networks, read from the shapes of untrusted files' tensors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]  # of tensors, by name

MOST_LAYERS = 200  # five times the deepest network; a file with nothing but names could ask for thousands


@contextmanager
def complete(network: str, hint: str = "") -> Iterator[None]:
    """Say that the network is not complete where its sizes cannot be read."""
    try:
        yield
    except (LookupError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"this is not a complete {network} ({error}).{hint}") from error


def count(shapes: Shapes, name: str) -> int:
    """How many names there are: with 0, 1, 2 and so on in the place of the star; see `check_depth`."""
    number = next(i for i in itertools.count() if name.replace("*", str(i)) not in shapes)
    check_depth(number)
    return number


def check_depth(*counts: int) -> None:
    """Raise ValueError unless a network can have so many layers or levels."""
    if not all(0 < count <= MOST_LAYERS for count in counts):
        raise ValueError(f"it has {' and '.join(map(str, counts))} layers")
