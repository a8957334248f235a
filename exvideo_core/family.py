"""A model family: everything that shared code needs to know of a model, as functions and data.

A family is a folder in `families/` whose `__init__` makes one `Family`, and a line in `registry.FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .lora.keys import LoRAKeys
from .sampling.methods import Method


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model and its extension.

    Attributes:
        name: the key on the command line and in files, such as "svd".
        title: the name that people know, such as "Stable Video Diffusion".
        methods: sampling methods by name; the first is the default.
        lora: how LoRA files name the model's layers; None if it takes no LoRAs.
    """

    name: str
    title: str
    methods: Mapping[str, Method]
    lora: LoRAKeys | None = None
