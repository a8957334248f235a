"""Renaming weights from one project's naming to another's, by tables."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..errors import CheckpointError

_NUMBER = re.compile(r"(?<=[._])\d+(?=[._])")


def renamed(name: str, table: Mapping[str, str]) -> str | None:
    """The new name by a table, in which N stands for the number of a block; None if it has no such name.

    >>> renamed("blocks.7.q", {"blocks.N.q": "transformer_blocks.N.attn1.to_q"})
    'transformer_blocks.7.attn1.to_q'
    """
    number = _NUMBER.search(name)
    if name in table or number is None:
        return table.get(name)
    new = table.get(_NUMBER.sub("N", name, count=1))
    return new and new.replace("N", number[0], 1)


def rename(name: str, table: Mapping[str, str], kind: str) -> str:
    """`renamed`, with a CheckpointError that the file is no `kind` where the table has no such name."""
    new = renamed(name, table)
    if new is None:
        raise unknown_name(name, kind)
    return new


def unknown_name(name: str, kind: str) -> CheckpointError:
    """The error about a name that no rule matches."""
    return CheckpointError(f"{name!r} is not a weight of {kind}; choose a file of that kind, or download it again.")


def weights_of(layers: Mapping[str, str]) -> dict[str, str]:
    """The table of weights and biases that belongs to a table of layers."""
    return {f"{old}.{part}": f"{new}.{part}" for old, new in layers.items() for part in ("weight", "bias")}
