"""A model family: everything that shared code needs to know of a model, as functions and data.

A family is a folder in `families/` whose `__init__` makes one `Family`, and a line in `registry.FAMILIES`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model and its extension.

    Attributes:
        name: the key on the command line and in files, such as "svd".
        title: the name that people know, such as "Stable Video Diffusion".
    """

    name: str
    title: str
