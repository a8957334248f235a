"""Kinds of weight files. Each family defines its own; `weights.detect` has those that belong to none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]  # of a file's tensors, by name


@dataclass(frozen=True)
class Kind:
    """A kind of weight file.

    Attributes:
        name: for programs.
        where: where such a file belongs, as the end of a sentence.
        is_lora: whether it is one; the names of its tensors contain those of the model it is for.
    """

    name: str
    where: str
    is_lora: bool = False


@dataclass(frozen=True)
class FileKind:
    """Kind of a file, and a description.

    Attributes:
        kind: to be compared.
        what: for people, with an article: "an SVD checkpoint with ExVideo's extension for 128 frames".
        naming: whose weight names it uses, where there is a choice: sgm, diffusers, transformers, open_clip, comfyui.
    """

    kind: Kind
    what: str
    naming: str = ""

    @property
    def where(self) -> str:
        """Where the file belongs."""
        return self.kind.where


DetectRule = Callable[[Shapes], FileKind | None]  # None where the file is something else
