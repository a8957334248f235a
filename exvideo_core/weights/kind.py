"""Kinds of weight files. Each family defines its own; `weights.detect` has those that belong to none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]  # of a file's tensors, by name


@dataclass(frozen=True)
class Kind:
    """A kind of weight file."""

    name: str  # for programs
    where: str  # where such a file belongs, as the end of a sentence
    is_lora: bool = False  # if so, the names of its tensors contain those of the model it is for


@dataclass(frozen=True)
class FileKind:
    """Kind of a file, and a description."""

    kind: Kind  # to be compared
    what: str  # for people, with an article: "an SVD checkpoint with ExVideo's extension for 128 frames"
    naming: str = ""  # whose weight names it uses, of several: sgm, diffusers, transformers, open_clip, comfyui


DetectRule = Callable[[Shapes], FileKind | None]  # None where the file is something else
