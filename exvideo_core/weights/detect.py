"""Recognise weight files by the names and shapes of their tensors, never by the file name.

The rules are the families'. `registry` hands them over, because nothing here may import a family.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable

from ..errors import CheckpointError
from .kind import DetectRule, FileKind, Kind, Shapes

OTHER_LORA = Kind(
    "other LoRA", "it is for another model: ExVideo's LoRA is ExVideo-CogVideoX-LoRA-129f-v1.safetensors", is_lora=True
)
UNKNOWN = Kind("unknown", "no part of this project reads it")

_LORA = r".+\.(lora_[AB]|lora_up|lora_down|dora_scale|lokr_w\d|hada_w\d_[ab])(\.|$)"
rules: Callable[[], Iterable[DetectRule]] = tuple  # of all families, first match wins; `registry` sets it


def identify(shapes: Shapes) -> FileKind:
    """Say what the file with these tensors is; an incomplete file is recognised as what it would be."""
    is_lora = bool(match(shapes, _LORA))
    for rule in rules():
        found = rule(shapes)
        if found and found.kind.is_lora == is_lora:
            return found
    if is_lora:
        return FileKind(OTHER_LORA, "a LoRA for another model")
    first = f", the first of them {min(shapes)}" if shapes else ""
    return FileKind(UNKNOWN, f"an unknown file ({len(shapes)} tensors{first})")


def require(source: str, found: FileKind, wanted: Kind | Collection[Kind], slot: str) -> None:
    """Refuse a file in the wrong slot.

    Args:
        source: the file, as the message should call it.
        found: what it is.
        wanted: what the slot takes.
        slot: the slot, with an article: "an SVD checkpoint".

    Raises:
        CheckpointError: says what the file is and where it belongs.
    """
    wanted = {wanted} if isinstance(wanted, Kind) else wanted
    if found.kind not in wanted:
        raise CheckpointError(f"{source} is {found.what}, not {slot}; {found.kind.where}.")


# for the rules


def match(names: Iterable[str], pattern: str) -> re.Match[str] | None:
    """The first name that the pattern matches from its start."""
    compiled = re.compile(pattern)
    return next((found for name in names if (found := compiled.match(name))), None)


def count(names: Iterable[str], pattern: str) -> int:
    """How many different first groups the pattern finds: blocks, layers."""
    compiled = re.compile(pattern)
    return len({found[1] for name in names if (found := compiled.match(name))})
