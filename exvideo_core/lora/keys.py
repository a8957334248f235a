"""How LoRA files name the layers of a model. Each family has its `LoRAKeys`; this module knows none of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..weights.kind import FileKind, Kind

Role = Literal["down", "up", "alpha"]

_SUFFIX = re.compile(
    r"(?P<layer>.+)\.(lora_((?P<down>A|down)|(?P<up>B|up))(\.(?P<adapter>[^.]+))?\.weight|(?P<alpha>alpha))"
)


@dataclass(frozen=True)
class Key:
    """One tensor of a LoRA file."""

    parameter: str  # the weight it changes, in our naming: transformer_blocks.3.attn1.to_out.0.weight
    role: Role  # which part of that weight's pair
    adapter: str  # peft's name of the adapter, which is part of some files' keys; otherwise ""


@dataclass(frozen=True, kw_only=True)
class LoRAKeys:
    """A family's rules for LoRAs."""

    title: str  # the model, for messages
    layer_name: Callable[[str], str | None]  # our name of a layer in any spelling; None if the model has no such layer
    export_name: Callable[[str], str]  # of a weight of ours, as it is saved; ValueError if no LoRA changes that weight
    kind: Kind  # of the family's LoRA files
    refused: Collection[Kind] = ()  # models that a LoRA is not for, although shapes may fit
    hint: Callable[[FileKind], str]  # what to choose instead, given a model that a LoRA does not fit

    def parse(self, key: str) -> Key | None:
        """Read a key of a LoRA file in any spelling; None if it belongs to no layer of the model."""
        match = _SUFFIX.fullmatch(key)
        layer = self.layer_name(match["layer"]) if match else None
        if match is None or layer is None:
            return None
        role: Role = "down" if match["down"] else "up" if match["up"] else "alpha"
        return Key(f"{layer}.weight", role, match["adapter"] or "")

    def weight_name(self, name: str) -> str | None:
        """Our name of a weight in any spelling; None if it is no weight of a layer of the model."""
        layer = self.layer_name(name.removesuffix(".weight")) if name.endswith(".weight") else None
        return f"{layer}.weight" if layer else None


families: Callable[[], Sequence[LoRAKeys]] = tuple  # all there are; `registry` sets it


def keys_for(names: Iterable[str]) -> LoRAKeys:
    """The family that knows most of these keys of a file, or names of weights; the first one if none does."""
    names = list(names)

    def known(keys: LoRAKeys) -> int:
        return sum(bool(keys.parse(name) or keys.weight_name(name)) for name in names)

    return max(families(), key=known)
