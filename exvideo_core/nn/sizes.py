"""Limits of network sizes that are read from untrusted files."""

from __future__ import annotations

MOST_LAYERS = 200  # five times the deepest network; a file with nothing but names could ask for thousands


def check_depth(*counts: int) -> None:
    """Raise ValueError unless a network can have so many layers or levels."""
    if not all(0 < count <= MOST_LAYERS for count in counts):
        raise ValueError(f"it has {' and '.join(map(str, counts))} layers")
