"""What sizes must keep to when they are read from a file that anybody may have made."""

from __future__ import annotations

MOST_LAYERS = 200  # of a kind in a row: five times the deepest. A file of nothing but names is not to build thousands


def check_depth(*counts: int) -> None:
    """Raise ValueError unless all are numbers of layers or levels that a network can have."""
    if not all(0 < count <= MOST_LAYERS for count in counts):
        raise ValueError(f"it has {' and '.join(map(str, counts))} layers")
