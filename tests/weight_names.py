"""DiffSynth's fingerprint of a weight file, to compare with those in golden/weight_names.json.gz."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def key_hash(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """md5 over all names and shapes, by which DiffSynth 1.1.9 identifies a file (`hash_state_dict_keys`)."""
    keys = [*shapes, *(f"{name}:{'_'.join(map(str, shape))}" for name, shape in shapes.items())]
    return hashlib.md5(",".join(sorted(keys)).encode(), usedforsecurity=False).hexdigest()
