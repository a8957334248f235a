"""All engines by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from benchmarks.engine import Engine, Networks
from benchmarks.references import DiffSynth, Diffusers

ENGINES: Mapping[str, type[Networks]] = {"exvideo": Engine, "diffsynth": DiffSynth, "diffusers": Diffusers}


def engine(name: str) -> Networks:
    """An engine by its name or `module:attribute`."""
    if name in ENGINES:
        return ENGINES[name]()
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)()
