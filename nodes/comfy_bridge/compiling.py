"""ComfyUI's Torch Compile node on networks that compute in pieces.

Compiled as a whole they would be unrolled piece by piece, and again for every size of clip: minutes, for nothing. What
there is to gain is in the chains between the matrix products, so those are compiled where somebody asks for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...exvideo_core.nn.fused import fusing

_told: set[str] = set()  # once for each kind of model is enough


@contextmanager
def chains_instead(model: Any) -> Iterator[None]:
    """Around a call of `model.diffusion_model`: where that stands compiled, the network itself with compiled chains."""
    compiled = model.diffusion_model
    network = getattr(compiled, "_orig_mod", None)  # as torch.compile names what it wraps
    if network is None:
        yield
        return
    kind = type(network).__name__
    if kind not in _told:
        _told.add(kind)
        logging.info("ExVideo: torch.compile is used for chains of small operations, not for the whole network")
    model.diffusion_model = network
    try:
        with fusing():
            yield
    finally:
        model.diffusion_model = compiled
