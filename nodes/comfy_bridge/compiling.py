"""ComfyUI's Torch Compile node on networks that compute in chunks.

Compiling the whole network would unroll every chunk, and compile again for every clip size: minutes without any gain.
The gain is in the chains of pointwise operations between matrix products, so only those are compiled.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...exvideo_core.nn.fused import fusing

_logged: set[str] = set()  # network classes: one line of log for each


@contextmanager
def chains_instead(model: Any) -> Iterator[None]:
    """Around a call of `model.diffusion_model`: replace a compiled network by the network with compiled chains."""
    compiled = model.diffusion_model
    network = getattr(compiled, "_orig_mod", None)  # torch.compile's name for the wrapped module
    if network is None:
        yield
        return
    kind = type(network).__name__
    if kind not in _logged:
        _logged.add(kind)
        logging.info("ExVideo: torch.compile is used for chains of small operations, not for the whole network")
    model.diffusion_model = network
    try:
        with fusing():
            yield
    finally:
        model.diffusion_model = compiled
