"""The model families there are. Shared code asks here and never imports a family."""

from __future__ import annotations

from .errors import ExVideoError
from .families.cogvideox import COGVIDEOX
from .families.svd import SVD
from .family import Family
from .lora import keys as lora_keys

FAMILIES: tuple[Family, ...] = (COGVIDEOX, SVD)

lora_keys.ask(lambda: [each.lora for each in FAMILIES if each.lora])


def family(name: str) -> Family:
    """The family of that name.

    Raises:
        ExVideoError: there is none.
    """
    for each in FAMILIES:
        if each.name == name:
            return each
    raise ExVideoError(f"model {name!r} is unknown; choose one of {', '.join(each.name for each in FAMILIES)}.")
